//! How often something took how long.

use std::time::Duration;

use super::line;

/// Times, counted in classes that each hold all shorter ones too.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    /// Upper ends, in seconds, ascending.
    ends: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    seconds: f64,
}

impl Histogram {
    pub(super) fn new(ends: &'static [f64]) -> Self {
        Self {
            ends,
            counts: vec![0; ends.len()],
            count: 0,
            seconds: 0.0,
        }
    }

    pub(super) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.count += 1;
        self.seconds += seconds;
        for (count, end) in self.counts.iter_mut().zip(self.ends) {
            *count += u64::from(seconds <= *end);
        }
    }

    /// Its lines. Who calls this has described the family.
    pub(super) fn write(&self, text: &mut String, name: &str, labels: &[(&str, &str)]) {
        let bucket = format!("{name}_bucket");
        let mut class = |end: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", end)]).collect();
            line(text, &bucket, &labels, &count);
        };
        for (end, count) in self.ends.iter().zip(&self.counts) {
            class(&end.to_string(), *count);
        }
        class("+Inf", self.count);
        line(text, &format!("{name}_sum"), labels, &self.seconds);
        line(text, &format!("{name}_count"), labels, &self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_every_class_that_it_fits_into() {
        let mut times = Histogram::new(&[0.01, 0.5]);
        for millis in [10, 11, 5000] {
            times.add(Duration::from_millis(millis));
        }
        let mut text = String::new();
        times.write(&mut text, "x", &[("a", "b")]);
        let expected = [
            r#"x_bucket{a="b",le="0.01"} 1"#,
            r#"x_bucket{a="b",le="0.5"} 2"#,
            r#"x_bucket{a="b",le="+Inf"} 3"#,
            r#"x_sum{a="b"} 5.021"#,
            r#"x_count{a="b"} 3"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
