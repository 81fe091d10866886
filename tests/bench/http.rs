//! What HTTP costs: `isol8 serve` in front of the daemon against the same runs by
//! gRPC, one at a time and many at once.
//!
//! Load is a closed loop: each of so many kept connections sends its next request
//! when it has the answer to the last one. A round is as many requests as the pool
//! has warm sandboxes, and waits for them first, so that it measures the way of a
//! request and not the making of sandboxes; what comes of endless load is a row of
//! its own.

use std::{
    cell::Cell,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use isol8_proto::v1::{Engine, Runtime, run_service_client::RunServiceClient};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tonic::transport::Channel;

use crate::{
    Options,
    report::{Bound, Figure},
    sample::{Samples, Timing, median},
    stage::Stage,
    subjects::{call, order, process},
};

const HELLO: &str = "print(1)";
const KEY: &str = "the-benchmark";

/// So many requests are a round; so many sandboxes are warm before it.
const ROUND: u32 = 64;
const ROUNDS: usize = 6;
const CONCURRENCY: [usize; 3] = [1, 8, 64];

/// Requests of endless load, and its connections.
const ENDLESS: u32 = 96;
const ENDLESS_DOCKER: u32 = 48;
const ENDLESS_ROUNDS: usize = 4;
const WORKERS: usize = 8;

/// A daemon with one engine, for the gateway lets nobody choose. No run waits for
/// another one's end.
fn config(engine: Engine, pool: &Value) -> String {
    let engine = engine_name(engine);
    json!({"engine": engine, "maxConcurrent": 64, "poolSize": pool}).to_string()
}

/// HTTP beside gRPC and the bare interpreter.
///
/// # Errors
/// A run fails, is refused, or did not find the warm sandbox that it should.
pub(crate) async fn http(options: &Options, interpreter: &str) -> anyhow::Result<Vec<Figure>> {
    let mut engines = vec![Engine::Native];
    if options.docker {
        engines.push(Engine::Docker);
    }
    let mut figures = Vec::new();
    for engine in engines {
        // A pool as large as it is by itself.
        let stage = Stage::start(&config(engine, &json!({}))).await?;
        let gateway = Gateway::start(&stage, engine).await?;
        figures.extend(one(options, &stage, &gateway, interpreter).await?);
        figures.push(endless(&stage, &gateway).await?);
        gateway.stop().await?;
        stage.stop().await?;
    }
    let whole_round = json!({"clean": ROUND, "dirty": 0});
    let stage = Stage::start(&config(Engine::Native, &whole_round)).await?;
    let gateway = Gateway::start(&stage, Engine::Native).await?;
    for concurrency in CONCURRENCY {
        figures.extend(many(&stage, &gateway, concurrency).await?);
    }
    gateway.stop().await?;
    stage.stop().await?;
    Ok(figures)
}

/// `isol8 serve`, with one engine behind it.
struct Gateway {
    child: Child,
    address: String,
    engine: Engine,
}

impl Gateway {
    async fn start(stage: &Stage, engine: Engine) -> anyhow::Result<Self> {
        let mut command = stage.isol8();
        let mut child = command
            .args(["serve", "--port", "0"])
            .env("ISOL8_API_KEY", KEY)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `isol8 serve`")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = loop {
            let line = lines.next_line().await?;
            let line = line.context("`isol8 serve` ended before it served")?;
            if let Some((_, address)) = line.split_once("isol8 serves http://") {
                break address.to_owned();
            }
        };
        // Its log has a line for every request, which is a part of its work.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            address,
            engine,
        })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let body = json!({"request": {"code": HELLO, "runtime": "python", "timeoutMs": 60_000}});
        let body = body.to_string();
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        Ok(Connection {
            stream: BufReader::new(stream),
            request: (head + &body).into_bytes(),
        })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().context("the gateway is gone already")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait().await?;
        Ok(())
    }
}

/// A kept connection, with the request that goes over it again and again.
struct Connection {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Connection {
    /// One run, from the first byte of the request to the last one of the answer.
    async fn execute(&mut self) -> anyhow::Result<Timing> {
        let start = Instant::now();
        self.stream.get_mut().write_all(&self.request).await?;
        let mut line = String::new();
        let (mut length, mut first_byte) = (0, None);
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                bail!("the gateway closed the connection");
            }
            first_byte.get_or_insert_with(|| start.elapsed());
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let whole = start.elapsed();
        let result: Value = serde_json::from_slice(&body)?;
        if result["stdout"] != "1\n" || result["exitCode"] != 0 {
            bail!("the run ended with {result}");
        }
        Ok(Timing {
            first_byte: first_byte.unwrap_or(whole),
            whole,
        })
    }
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Docker => "docker",
        _ => "native",
    }
}

/// Whether it is by HTTP, first and second: neither is always the first.
fn turns(turn: usize) -> [bool; 2] {
    let first = turn.is_multiple_of(2);
    [first, !first]
}

/// One request at a time, each on a warm sandbox: by HTTP, by gRPC, and bare.
async fn one(
    options: &Options,
    stage: &Stage,
    gateway: &Gateway,
    interpreter: &str,
) -> anyhow::Result<Vec<Figure>> {
    let engine = gateway.engine;
    let (mut http, mut grpc) = (Samples::default(), Samples::default());
    let (mut plain, mut added) = (Samples::default(), Vec::new());
    let mut connection = gateway.connect().await?;
    let mut client = stage.runs();
    // The gateway dials the daemon, and an image may have to be built.
    connection.execute().await?;
    for turn in 0..options.samples * 2 {
        let mut pair = [Duration::ZERO; 2];
        for by_http in turns(turn) {
            stage.warm(Runtime::Python, engine, 1).await?;
            let timing = if by_http {
                connection.execute().await?
            } else {
                call(&mut client, order(Runtime::Python, engine, HELLO)).await?
            };
            let of = if by_http { &mut http } else { &mut grpc };
            of.add(timing);
            pair[usize::from(by_http)] = timing.whole;
        }
        let [by_grpc, by_http] = pair.map(|whole| whole.as_secs_f64() * 1e3);
        added.push(by_http - by_grpc);
        if turn % 2 == 0 {
            let mut bare = Command::new(interpreter);
            plain.add(process(bare.args(["-c", HELLO])).await?);
        }
    }
    let name = engine_name(engine);
    Ok(vec![
        Figure::alone(
            format!("http: p50 that it adds to gRPC, {name}, warm"),
            median(&added),
            "ms",
            Bound::AtMost(1.5),
        ),
        Figure::ratio(
            format!("http: POST /execute, {name}, warm, p50 ÷ gRPC"),
            http.whole_ms(),
            grpc.whole_ms(),
            Bound::None,
        ),
        Figure::ratio(
            "http: the same, p99 ÷ gRPC",
            http.whole_p99_ms(),
            grpc.whole_p99_ms(),
            Bound::None,
        ),
        Figure::ratio(
            "http: the same, p50 ÷ bare interpreter",
            http.whole_ms(),
            plain.whole_ms(),
            Bound::None,
        ),
    ])
}

/// Load over several connections at once, and what came of it.
#[derive(Default)]
struct Load {
    samples: Samples,
    rates: Vec<f64>,
}

impl Load {
    /// `count` requests, shared by the workers as they come.
    async fn add<W, F, Fut>(&mut self, workers: Vec<W>, count: u32, work: F) -> anyhow::Result<()>
    where
        F: Fn(W) -> Fut,
        Fut: Future<Output = (W, anyhow::Result<Timing>)>,
    {
        let left = Cell::new(count);
        let begun = Instant::now();
        let busy = workers.into_iter().map(|mut worker| {
            let (left, work) = (&left, &work);
            async move {
                let mut timings = Vec::new();
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let (same, timing) = work(worker).await;
                    worker = same;
                    timings.push(timing?);
                }
                anyhow::Ok(timings)
            }
        });
        let timings = futures_util::future::try_join_all(busy).await?;
        self.rates
            .push(f64::from(count) / begun.elapsed().as_secs_f64());
        for timing in timings.into_iter().flatten() {
            self.samples.add(timing);
        }
        Ok(())
    }

    async fn by_http(
        &mut self,
        gateway: &Gateway,
        workers: usize,
        count: u32,
    ) -> anyhow::Result<()> {
        let mut connections = Vec::new();
        for _ in 0..workers {
            connections.push(gateway.connect().await?);
        }
        self.add(connections, count, |mut connection| async move {
            let timing = connection.execute().await;
            (connection, timing)
        })
        .await
    }

    async fn by_grpc(
        &mut self,
        client: &RunServiceClient<Channel>,
        engine: Engine,
        workers: usize,
        count: u32,
    ) -> anyhow::Result<()> {
        let clients = vec![client.clone(); workers];
        self.add(clients, count, |mut client| async move {
            let timing = call(&mut client, order(Runtime::Python, engine, HELLO)).await;
            (client, timing)
        })
        .await
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }
}

/// Runs of the pool that found no warm sandbox.
async fn misses(stage: &Stage) -> anyhow::Result<u64> {
    let status = stage.status().await?;
    Ok(status.pools.iter().map(|pool| pool.misses).sum())
}

/// Rounds on a pool that is warm for all of it.
async fn many(stage: &Stage, gateway: &Gateway, concurrency: usize) -> anyhow::Result<Vec<Figure>> {
    let (mut http, mut grpc) = (Load::default(), Load::default());
    let client = stage.runs();
    let missed = misses(stage).await?;
    let engine = gateway.engine;
    for by_http in (0..ROUNDS).flat_map(turns) {
        stage.warm(Runtime::Python, engine, ROUND).await?;
        if by_http {
            http.by_http(gateway, concurrency, ROUND).await?;
        } else {
            grpc.by_grpc(&client, engine, concurrency, ROUND).await?;
        }
    }
    let missed = misses(stage).await? - missed;
    anyhow::ensure!(missed == 0, "{missed} runs of a round were cold");
    let name = format!("http: warm, {concurrency} at once");
    Ok(vec![
        Figure::ratio(
            format!("{name}, requests a second ÷ gRPC"),
            http.rate(),
            grpc.rate(),
            Bound::None,
        )
        .unit("1/s"),
        Figure::ratio(
            format!("{name}, p50 ÷ gRPC"),
            http.samples.whole_ms(),
            grpc.samples.whole_ms(),
            Bound::None,
        ),
        Figure::ratio(
            format!("{name}, p99 ÷ gRPC"),
            http.samples.whole_p99_ms(),
            grpc.samples.whole_p99_ms(),
            Bound::None,
        ),
    ])
}

/// Load that takes sandboxes faster than they are made.
async fn endless(stage: &Stage, gateway: &Gateway) -> anyhow::Result<Figure> {
    let engine = gateway.engine;
    let count = match engine {
        Engine::Docker => ENDLESS_DOCKER,
        _ => ENDLESS,
    };
    let (mut http, mut grpc) = (Load::default(), Load::default());
    let client = stage.runs();
    for by_http in (0..ENDLESS_ROUNDS).flat_map(turns) {
        if by_http {
            http.by_http(gateway, WORKERS, count).await?;
        } else {
            grpc.by_grpc(&client, engine, WORKERS, count).await?;
        }
    }
    let name = engine_name(engine);
    Ok(Figure::ratio(
        format!("http: {name}, endless load of {WORKERS} ÷ gRPC"),
        http.rate(),
        grpc.rate(),
        Bound::None,
    )
    .unit("1/s"))
}
