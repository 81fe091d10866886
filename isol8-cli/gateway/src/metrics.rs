//! What the gateway counts, and how it and the daemon's status look to Prometheus.

mod daemon;
mod histogram;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

pub(crate) use daemon::of_daemon;

use histogram::Histogram;

/// Upper ends, in seconds, of the classes of answer times.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// The same for whole runs: finer where warm and cold starts are.
const RUN_BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Counters of one gateway. Labels are its own routes and verdicts, so that no
/// client can make more of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    answers: Mutex<BTreeMap<(String, String, u16), u64>>,
    times: Mutex<BTreeMap<String, Histogram>>,
    runs: Mutex<BTreeMap<String, u64>>,
    run_times: Mutex<Histogram>,
    connections: AtomicI64,
    in_flight: AtomicI64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            times: Mutex::default(),
            runs: Mutex::default(),
            run_times: Mutex::new(Histogram::new(&RUN_BUCKETS)),
            connections: AtomicI64::new(0),
            in_flight: AtomicI64::new(0),
        }
    }
}

/// Counts down when it is dropped.
#[derive(Debug)]
pub(crate) struct Gauge<'a>(&'a AtomicI64);

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn up(gauge: &AtomicI64) -> Gauge<'_> {
    gauge.fetch_add(1, Ordering::Relaxed);
    Gauge(gauge)
}

/// A counter is right also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(crate) fn connection(&self) -> Gauge<'_> {
        up(&self.connections)
    }

    pub(crate) fn flight(&self) -> Gauge<'_> {
        up(&self.in_flight)
    }

    /// A run is over.
    pub(crate) fn verdict(&self, verdict: &str) {
        *lock(&self.runs).entry(verdict.to_owned()).or_default() += 1;
    }

    /// A run came to a verdict, this long after it was asked for.
    pub(crate) fn ran(&self, elapsed: Duration) {
        lock(&self.run_times).add(elapsed);
    }

    /// The head of an answer is made.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        let key = (route.to_owned(), known(method).to_owned(), status);
        *lock(&self.answers).entry(key).or_default() += 1;
        let mut times = lock(&self.times);
        let times = times.entry(route.to_owned());
        times
            .or_insert_with(|| Histogram::new(&BUCKETS))
            .add(elapsed);
    }

    /// Everything as Prometheus text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        family(
            &mut text,
            "isol8_http_requests_total",
            "counter",
            "Answers by route and status.",
        );
        for ((route, method, status), count) in &*lock(&self.answers) {
            line(
                &mut text,
                "isol8_http_requests_total",
                &[
                    ("route", route),
                    ("method", method),
                    ("status", &status.to_string()),
                ],
                count,
            );
        }
        let name = "isol8_http_request_duration_seconds";
        family(
            &mut text,
            name,
            "histogram",
            "Until the head of the answer.",
        );
        for (route, times) in &*lock(&self.times) {
            times.write(&mut text, name, &[("route", route)]);
        }
        family(
            &mut text,
            "isol8_http_runs_total",
            "counter",
            "Runs by how they ended.",
        );
        for (verdict, count) in &*lock(&self.runs) {
            line(
                &mut text,
                "isol8_http_runs_total",
                &[("verdict", verdict)],
                count,
            );
        }
        let name = "isol8_http_run_duration_seconds";
        let help = "Runs with a verdict, from the request to the end.";
        family(&mut text, name, "histogram", help);
        lock(&self.run_times).write(&mut text, name, &[]);
        gauge(
            &mut text,
            "isol8_http_runs_in_flight",
            "Runs that go on.",
            &read(&self.in_flight),
        );
        let open = read(&self.connections);
        gauge(
            &mut text,
            "isol8_http_connections",
            "Connections that are open.",
            &open,
        );
        text
    }
}

/// Any other word is a client's invention.
fn known(method: &str) -> &str {
    match method {
        "GET" | "POST" | "PUT" | "DELETE" | "HEAD" | "OPTIONS" | "PATCH" => method,
        _ => "other",
    }
}

fn read(gauge: &AtomicI64) -> i64 {
    gauge.load(Ordering::Relaxed)
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a String takes all");
}

fn gauge(text: &mut String, name: &str, help: &str, value: &dyn std::fmt::Display) {
    family(text, name, "gauge", help);
    line(text, name, &[], value);
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: &dyn std::fmt::Display) {
    let escape = |value: &str| {
        let value = value.replace('\\', r"\\").replace('"', "\\\"");
        value.replace('\n', r"\n")
    };
    let labels = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    let labels = labels.collect::<Vec<_>>().join(",");
    let labels = if labels.is_empty() {
        labels
    } else {
        format!("{{{labels}}}")
    };
    writeln!(text, "{name}{labels} {value}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        let mut text = String::new();
        line(&mut text, "x", &[("a", "\"}\n\\")], &1);
        assert_eq!(text, "x{a=\"\\\"}\\n\\\\\"} 1\n");
    }

    #[test]
    fn times_are_told_of_every_route_and_of_runs() {
        let metrics = Metrics::default();
        metrics.answered("/x", "GET", 200, Duration::from_millis(20));
        metrics.answered("/x", "BREW", 405, Duration::from_secs(1000));
        metrics.ran(Duration::from_millis(20));
        let text = metrics.text();
        for expected in [
            r#"isol8_http_request_duration_seconds_bucket{route="/x",le="0.01"} 0"#,
            r#"isol8_http_request_duration_seconds_bucket{route="/x",le="0.025"} 1"#,
            r#"isol8_http_request_duration_seconds_bucket{route="/x",le="300"} 1"#,
            r#"isol8_http_request_duration_seconds_bucket{route="/x",le="+Inf"} 2"#,
            r#"isol8_http_request_duration_seconds_count{route="/x"} 2"#,
            r#"isol8_http_requests_total{route="/x",method="other",status="405"} 1"#,
            r#"isol8_http_run_duration_seconds_bucket{le="0.01"} 0"#,
            r#"isol8_http_run_duration_seconds_bucket{le="0.02"} 1"#,
            "isol8_http_run_duration_seconds_sum 0.02",
            "isol8_http_run_duration_seconds_count 1",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_gauge_goes_down_again() {
        let metrics = Metrics::default();
        let flight = metrics.flight();
        assert!(metrics.text().contains("isol8_http_runs_in_flight 1\n"));
        drop(flight);
        assert!(metrics.text().contains("isol8_http_runs_in_flight 0\n"));
    }
}
