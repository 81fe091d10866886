//! Times as people type them.

use std::time::Duration;

use isol8_core::failure::{Failure, FailureKind};
use jiff::Timestamp;

/// A hundred years: who means more means for ever.
const MOST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// After a time such as `30d`, or at one such as `2027-01-01T00:00:00Z`.
///
/// # Errors
/// It is neither, or in the past.
pub(super) fn moment(
    flag: &str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Failure> {
    let parse = |text: &str| {
        let at = match duration(text) {
            Some(after) => now.checked_add(after).ok(),
            None => text.parse().ok(),
        };
        let hint = "write it like `FLAG 30d`, or `FLAG 2027-01-01T00:00:00Z`";
        let at = at.ok_or_else(|| {
            let why = format!("`{}` is no time", text.escape_debug());
            wrong(flag, why, hint)
        })?;
        match at > now {
            true => Ok(at),
            false => Err(wrong(flag, format!("{at:.0} is over"), hint)),
        }
    };
    text.map(parse).transpose()
}

/// The end of a time that begins now, such as `12h`.
///
/// # Errors
/// It is no such time.
pub(super) fn span(
    flag: &str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Failure> {
    let parse = |text: &str| {
        let after = duration(text).and_then(|after| now.checked_add(after).ok());
        after.ok_or_else(|| {
            let why = format!("`{}` is no such time", text.escape_debug());
            wrong(flag, why, "write it like `FLAG 1h`")
        })
    };
    text.map(parse).transpose()
}

/// `45s`, `90m`, `12h`, `30d`, `2w`; not zero.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let duration = Duration::from_secs(count.checked_mul(seconds)?);
    (!duration.is_zero() && duration <= MOST).then_some(duration)
}

fn wrong(flag: &str, why: String, hint: &str) -> Failure {
    let message = format!("wrong value for `{flag}`");
    Failure::new(FailureKind::InvalidRequest, message)
        .cause(why)
        .hint(hint.replace("FLAG", flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        let right = [
            ("1s", 1),
            ("90m", 5400),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ];
        for (text, expected) in right {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "s",
            "0s",
            "1",
            "-1d",
            "+1d",
            "1.5h",
            "1d2h",
            "1D",
            "1 d",
            "1y",
            "40000d",
            "99999999999999999999d",
            "1ü",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_in_the_future() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().expect("a time");
        let at = |text| {
            moment("--expires", Some(text), now).map(|at| at.expect("it was given").to_string())
        };
        assert_eq!(at("2d").as_deref(), Ok("2026-06-03T00:00:00Z"));
        assert_eq!(
            at("2027-01-01T02:00:00+02:00").as_deref(),
            Ok("2027-01-01T00:00:00Z")
        );
        for (wrong, why) in [
            ("2026-06-01T00:00:00Z", "2026-06-01T00:00:00Z is over"),
            ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z is over"),
            ("tomorrow", "`tomorrow` is no time"),
            ("2027-01-01", "`2027-01-01` is no time"),
            ("0d", "`0d` is no time"),
        ] {
            let failure = at(wrong).expect_err(wrong);
            assert_eq!(failure.causes, [why]);
            assert!(
                failure
                    .hint
                    .is_some_and(|hint| hint.contains("`--expires 30d`"))
            );
        }
        assert_eq!(moment("--expires", None, now), Ok(None));
        assert!(span("--keep", Some("2027-01-01T00:00:00Z"), now).is_err());
    }
}
