//! What cannot be opened.

use isol8_core::failure::{Failure, FailureKind};
use isol8d::egress::EgressSettings;

use crate::rig::{Door, only, settings, start};

async fn refusal(settings: EgressSettings) -> Failure {
    let egress = start(settings);
    let failure = Door::new().open(&egress, &only("x", 80)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EgressUnavailable, "{failure}");
    assert!(!egress.status().running);
    assert_eq!(egress.status().sandboxes, 0);
    egress.shutdown().await;
    failure
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_as_the_cause() {
    let settings = EgressSettings {
        program: "/nonexistent/isol8d".into(),
        ..settings()
    };
    let failure = refusal(settings).await;
    assert!(failure.to_string().contains("No such file"), "{failure}");
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_an_end() {
    let settings = EgressSettings {
        program: "/bin/false".into(),
        ..settings()
    };
    let failure = refusal(settings).await;
    assert!(failure.to_string().contains("exit status: 1"), "{failure}");
}

#[tokio::test]
async fn authorities_that_are_not_there_are_named() {
    let settings = EgressSettings {
        upstream: Some("https://127.0.0.1:1".to_owned()),
        authorities: Some("/nonexistent/ca.pem".into()),
        ..settings()
    };
    let failure = refusal(settings).await;
    assert!(
        failure.to_string().contains("/nonexistent/ca.pem"),
        "{failure}"
    );
}

#[tokio::test]
async fn authorities_that_are_none_are_told_by_the_process() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(file.path(), pem).unwrap();
    let settings = EgressSettings {
        upstream: Some("https://127.0.0.1:1".to_owned()),
        authorities: Some(file.path().to_owned()),
        ..settings()
    };
    let failure = refusal(settings).await;
    assert!(failure.to_string().contains("certificate"), "{failure}");
}

#[tokio::test]
async fn only_the_listener_of_a_sandbox_is_taken() {
    // As in the product: the port counts.
    let egress = start(EgressSettings {
        any_port: false,
        ..settings()
    });
    let door = Door::new();
    let failure = door.open(&egress, &only("x", 80)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::EgressUnavailable);
    let address = door.address.to_string();
    assert!(failure.to_string().contains(&address), "{failure}");
    door.assert_nobody_accepts().await;
    egress.shutdown().await;
}

#[tokio::test]
async fn a_filter_that_does_not_fit_a_message_is_refused_here() {
    let egress = start(settings());
    let mut filter = only("x", 80);
    filter.ports = vec![u16::MAX; 60_000];
    let failure = Door::new().open(&egress, &filter).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure}");
    filter.ports = (0..30_000).collect();
    let traffic = Door::new().open(&egress, &filter).await.unwrap();
    assert!(!traffic.close().await.lost);
    egress.shutdown().await;
}
