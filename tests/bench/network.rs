//! What the filtered network costs: the same client in two sandboxes, one with
//! the host's network and one behind the filter, to the same local origin.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use isol8_e2e::harness::{authority::Authority, origin::Origin};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Options,
    report::{Bound, Figure},
    sample::median,
    stage::Stage,
};

const PROGRAM: &str = include_str!("proxy.py");

/// Enough that the beginning does not count, little enough for a sandbox with
/// one core of TLS.
const BYTES: usize = 400 << 20;

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Way {
    plain: f64,
    tls: f64,
    kept: f64,
    fresh: f64,
}

#[derive(Debug, Default)]
struct Ways {
    plain: Vec<f64>,
    tls: Vec<f64>,
    kept: Vec<f64>,
    fresh: Vec<f64>,
}

impl Ways {
    fn add(&mut self, way: &Way) {
        self.plain.push(way.plain);
        self.tls.push(way.tls);
        self.kept.push(way.kept);
        self.fresh.push(way.fresh);
    }
}

async fn measure(stage: &Stage, origin: SocketAddr, network: &str) -> anyhow::Result<Way> {
    let way = if network == "host" {
        "direct"
    } else {
        "proxied"
    };
    let mut command = stage.isol8();
    command
        .args([
            "run", "--engine", "native", "-r", "python", "--net", network,
        ])
        // The sandbox must not be what is measured.
        .args(["--cpu", "2", "--timeout", "120000", "-e", PROGRAM]);
    for variable in [
        format!("ORIGIN={origin}"),
        format!("WAY={way}"),
        format!("SIZE={BYTES}"),
    ] {
        command.args(["--env", &variable]);
    }
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "the way {way} cannot be measured: {said}"
    );
    serde_json::from_slice(&output.stdout).context("the program prints JSON")
}

/// Throughput and latency through the proxy against none.
///
/// # Errors
/// A way that cannot be measured.
pub(crate) async fn network(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let origin = Origin::listen(&[here], &Authority::new())?;
    let address = origin.address();
    let config = json!({
        "maxConcurrent": 64,
        "network": {"allowPrivate": ["127.0.0.0/8"], "ports": [address.port()], "whitelist": ["127\\.0\\.0\\.1"]},
    });
    let stage = Stage::start(&config.to_string()).await?;
    let (mut direct, mut proxied) = (Ways::default(), Ways::default());
    for _ in 0..options.samples.min(7) {
        direct.add(&measure(&stage, address, "host").await?);
        proxied.add(&measure(&stage, address, "filtered").await?);
        drop((origin.take_seen(), origin.take_connections()));
    }
    stage.stop().await?;
    let rate = |name: &str, ours: &[f64], peer: &[f64]| {
        Figure::ratio(name, median(ours), median(peer), Bound::AtLeast(0.5)).unit("MB/s")
    };
    let time = |name: &str, ours: &[f64], peer: &[f64]| {
        Figure::ratio(name, median(ours), median(peer), Bound::None).unit("µs")
    };
    Ok(vec![
        rate("proxy: plain HTTP ÷ direct", &proxied.plain, &direct.plain),
        rate(
            "proxy: HTTPS by CONNECT ÷ direct",
            &proxied.tls,
            &direct.tls,
        ),
        time(
            "proxy: one request, connection kept ÷ direct",
            &proxied.kept,
            &direct.kept,
        ),
        time(
            "proxy: one request, fresh connection ÷ direct",
            &proxied.fresh,
            &direct.fresh,
        ),
        Figure::alone(
            "proxy: added to a request, connection kept",
            median(&proxied.kept) - median(&direct.kept),
            "µs",
            Bound::AtMost(1000.0),
        ),
        Figure::alone(
            "proxy: added to a request, fresh connection",
            median(&proxied.fresh) - median(&direct.fresh),
            "µs",
            Bound::AtMost(2000.0),
        ),
    ])
}
