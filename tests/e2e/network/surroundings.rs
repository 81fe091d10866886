//! Corporate proxies in front of the world, and authorities of one's own.

use isol8_e2e::harness::{
    internet::{Internet, PUBLIC},
    stage::{Engine, Stage},
};
use serde_json::json;

use super::vector::EVIL;

/// The origin is a proxy at this port, at every address.
const UPSTREAM: &str = "http://someone:p%40ss@proxy.example:3128";

const CODE: &str = "import urllib.request, urllib.error\n\
    for url in ('http://example.com/plain', 'https://example.com/secure', 'http://evil.example/', 'https://evil.example/', 'http://169.254.169.254/', 'http://private.example/'):\n \
     try: r = urllib.request.urlopen(url); print(r.status)\n \
     except urllib.error.HTTPError as e: print(e.code)\n \
     except urllib.error.URLError as e: print('403' if '403' in str(e) else e)";

const FILTERED: [&str; 8] = [
    "--net",
    "filtered",
    "--allow",
    r"example\.com",
    "--allow",
    "169.*",
    "--allow",
    r"private\.example",
];

fn names(internet: &Internet) {
    internet.name("proxy.example", [10, 9, 9, 9].into());
    internet.name("private.example", [10, 0, 0, 1].into());
    internet.name(EVIL, PUBLIC);
}

#[track_caller]
fn through_the_upstream(stage: &Stage, internet: &Internet) {
    let ran = stage.python(CODE).args(FILTERED).go();
    assert_eq!(ran.ok(), "200\n200\n403\n403\n403\n403\n", "{ran:?}");
    let dialled = internet.origin.take_connections();
    assert!(
        !dialled.is_empty() && dialled.iter().all(|to| to.to_string() == "10.9.9.9:3128"),
        "{dialled:?}"
    );
    let seen = internet.origin.take_seen();
    let asked: Vec<String> = seen
        .iter()
        .filter(|seen| !seen.tls)
        .map(|seen| format!("{} {}", seen.method, seen.target))
        .collect();
    assert!(
        asked.contains(&"CONNECT example.com:443".to_owned()),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .any(|line| line.ends_with("http://example.com/plain")
                || line == "CONNECT example.com:80"),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|line| !line.contains("evil")
            && !line.contains("169.254")
            && !line.contains("private")),
        "{asked:?}"
    );
    // `someone:p@ss`, to the proxy and nobody else.
    for seen in &seen {
        let expected = (!seen.tls
            && (seen.method == "CONNECT" || seen.target.starts_with("http://")))
        .then_some("Basic c29tZW9uZTpwQHNz");
        assert_eq!(seen.header("proxy-authorization"), expected, "{seen:?}");
    }
    assert!(!stage.log().contains("p@ss") && !stage.log().contains("p%40ss"));
}

both_engines_online! {
    /// From the configuration.
    fn an_upstream_proxy_of_the_configuration(stage: &Stage, internet: &Internet)
    with { "upstreamProxy": "http://someone:p%40ss@proxy.example:3128" } {
        names(internet);
        through_the_upstream(stage, internet);
    }
}

/// From the daemon's own environment, as on a workstation.
fn from_the_environment(engine: Engine) {
    let internet = Internet::enter();
    names(&internet);
    Stage::without_daemon(engine, internet.config(&json!({})), |stage| {
        stage.start_daemon_as(|command| {
            command.env("HTTPS_PROXY", UPSTREAM);
        });
        through_the_upstream(stage, &internet);
        // A program sees nothing of it.
        let out = stage
            .python("import os; print(os.environ)")
            .args(FILTERED)
            .go()
            .ok();
        assert!(!out.contains("proxy.example"), "{out}");
    });
}

#[test]
fn an_upstream_proxy_of_the_environment_docker() {
    from_the_environment(Engine::Docker);
}

#[test]
fn an_upstream_proxy_of_the_environment_native() {
    from_the_environment(Engine::Native);
}

both_engines_online! {
    /// The bundle is inside, in every variable that tools look at, and it is the
    /// one of the configuration.
    fn authorities_reach_programs(stage: &Stage, internet: &Internet) {
        let code = "import os, ssl\n\
            names = ['SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'PIP_CERT', 'NODE_EXTRA_CA_CERTS', 'DENO_CERT', 'CURL_CA_BUNDLE', 'GIT_SSL_CAINFO']\n\
            files = {os.environ.get(n) for n in names}\n\
            print(len(files), os.access(files.pop(), os.W_OK), os.environ['SSL_CERT_FILE'].startswith('/'))\n\
            print(open(os.environ['SSL_CERT_FILE']).read(), end='')";
        let bundle = std::fs::read_to_string(internet.bundle()).expect("it is there");
        // With what the host or the image trusts by itself, or alone.
        let own = bundle.split_inclusive("-----END CERTIFICATE-----").next().expect("an authority");
        for network in ["none", "filtered", "host"] {
            let ran = stage.python(code).args(["--net", network, "--max-output", "10m"]).go();
            let out = ran.ok();
            assert!(out.starts_with("1 False True\n") && out.contains(own), "{network}: {ran:?}");
        }
        // An unknown authority is not trusted.
        let strict = "import ssl, urllib.request\n\
            try: urllib.request.urlopen('https://example.com/', context=ssl.create_default_context(cafile='/dev/null'))\n\
            except Exception as e: print('refused')";
        let ran = stage.python(strict).args(["--net", "filtered", "--deny", "x"]).go();
        assert_eq!(ran.ok(), "refused\n");
        assert_eq!(internet.origin.take_seen().len(), 0);
    }
}
