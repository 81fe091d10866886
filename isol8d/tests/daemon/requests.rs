//! Requests that are wrong, as a client sees the answer.

use expect_test::{Expect, expect};
use isol8_proto::v1::{self, run_request::Message, run_service_client::RunServiceClient};
use prost::Message as _;
use tonic::Code;

use crate::stage::{ME, Ran, Stage, limited, python};

#[track_caller]
fn check(ran: &Ran, code: Code, expected: Expect) {
    let (status, detail) = ran.failure();
    assert_eq!(status.code(), code, "{status:?}");
    let hint = if detail.hint.is_empty() { "" } else { " // " };
    expected.assert_eq(&format!("{}{hint}{}", detail.message, detail.hint));
}

#[tokio::test(start_paused = true)]
async fn wrong_starts_are_named() {
    let stage = Stage::new();
    let mut start = python("out x");
    start.runtime = 0;
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["`runtime` is not given"],
    );

    let mut start = python("out x");
    start.log_network = true;
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["`log_network` does nothing with network `none` // run it with `--net filtered`"],
    );

    let mut start = python("out x");
    start.install = vec!["--index-url=x".to_owned()];
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect![
            "`--index-url=x` is an option, not a package // write it like `--install 'numpy>=2'`"
        ],
    );

    let mut start = python("out x");
    start.secrets.insert("KEY".to_owned(), "abc".to_owned());
    let ran = stage.start(start).await.end().await;
    let (status, _) = ran.failure();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!format!("{status:?}").contains("abc"), "{status:?}");

    let mut start = python("out x");
    start.env.insert("1X".to_owned(), String::new());
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["`1X` is not a variable name; use letters, digits and `_`, not a digit first"],
    );

    let start = limited("out x", |limits| limits.pids = 1 << 20);
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["1048576 processes are too many; the most is 32768"],
    );
    assert_eq!(
        stage.daemon.pool().status().keys.len(),
        0,
        "nothing was made"
    );
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_over_the_message_limit_is_refused() {
    let stage = Stage::new();
    let ran = stage.start(python(&"#".repeat(17 << 20))).await.end().await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["the program has 17825792 bytes, the limit is 16777216"],
    );
    let ran = stage.start(python(&"#".repeat(21 << 20))).await.end().await;
    let (status, _) = ran.failure();
    assert!(status.code() != Code::Ok);
    assert_eq!(stage.run("out still here").await.stdout, b"still here\n");
    stage.stop().await;
}

async fn first_message(stage: &Stage, message: Option<Message>) -> Ran {
    let requests: Vec<_> = message
        .map(|message| v1::RunRequest {
            message: Some(message),
        })
        .into_iter()
        .collect();
    let answer = RunServiceClient::new(stage.channel(ME))
        .run(tokio_stream::iter(requests))
        .await;
    let status = answer.expect_err("it is refused");
    Ran {
        end: Some(Err(status)),
        ..Ran::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_with_start() {
    let stage = Stage::new();
    let ran = first_message(&stage, None).await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["the stream ended before `start`"],
    );
    let stdin = Message::Stdin(b"x".as_slice().into());
    let ran = first_message(&stage, Some(stdin)).await;
    check(
        &ran,
        Code::InvalidArgument,
        expect!["the first message of a run must be `start`"],
    );
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_starts_is_sent_away() {
    let stage = Stage::new();
    let answer = RunServiceClient::new(stage.channel(ME))
        .run(tokio_stream::pending())
        .await;
    let status = answer.expect_err("it is refused");
    let detail = v1::ErrorDetail::decode(status.details()).expect("an ErrorDetail");
    assert_eq!(detail.message, "no `start` came within 10000 ms");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn wrong_messages_later_end_the_run_and_its_sandbox() {
    let stage = Stage::new();
    let wrong: [(Message, &str); 4] = [
        (
            Message::Start(python("out again")),
            "a run has one `start`, this is the second",
        ),
        (
            Message::Signal(v1::Signal { number: 19 }),
            "signal 19 cannot be sent to a program",
        ),
        (
            Message::Stdin(b"x".as_slice().into()),
            "stdin came for a run whose stdin is closed",
        ),
        (
            Message::Stdin(vec![0; 300 << 10].into()),
            "a piece of stdin has 307200 bytes, the limit is 262144",
        ),
    ];
    for (message, expected) in wrong {
        let mut run = stage.start(python("hang")).await;
        run.accepted().await;
        run.say(message);
        let ran = run.end().await;
        assert_eq!(ran.failure().1.message, expected);
    }
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_goes_to_docker_or_nowhere() {
    let stage = Stage::new();
    stage.docker.mend();
    let mut start = python("about");
    start.image = "debian:trixie-slim".to_owned();
    let ran = stage.start(start.clone()).await.end().await;
    let accepted = ran.accepted.as_ref().expect("a sandbox");
    assert_eq!(accepted.engine(), v1::Engine::Docker);
    assert!(ran.text().contains("parked=false"), "{}", ran.text());
    start.engine = v1::Engine::Native.into();
    let ran = stage.start(start).await.end().await;
    check(
        &ran,
        Code::FailedPrecondition,
        expect!["the native engine runs no images // add `--engine docker`"],
    );
    stage.stop().await;
}
