use super::*;
use crate::{
    body,
    keys::{Key, Keys},
};

fn caller(text: &str) -> std::sync::Arc<Caller> {
    let callers = Keys::new(vec![Key::new("k", text, true)]).into_callers(1);
    std::sync::Arc::clone(&callers[0])
}

fn job_under(policy: &Policy, request: &str, rest: &str) -> Result<Job, Refusal> {
    let text = format!(r#"{{"request":{{"code":"x","runtime":"python"{request}}}{rest}}}"#);
    let body = body::parse(text.as_bytes()).expect("it is right JSON");
    Job::new(body, &caller("key"), policy)
}

fn job(request: &str, rest: &str) -> Result<Job, Refusal> {
    job_under(&Policy::default(), request, rest)
}

#[track_caller]
fn refused(request: &str, rest: &str, status: u16, expected: &str) {
    let refusal = job(request, rest).expect_err("it is refused");
    assert_eq!(refusal.status, status);
    let said = refusal.body.error;
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn what_is_left_out_is_left_to_the_daemon() {
    let job = job("", "").expect("it is right");
    assert_eq!(job.start.limits, Some(isol8_proto::v1::Limits::default()));
    assert_eq!(job.start.network(), NetworkMode::Unspecified);
    assert_eq!(job.start.session, None);
    assert!(!job.temporary && !job.start.writable && !job.start.stdin);
    assert_eq!(job.start.filter, None);
}

#[test]
fn everything_that_is_asked_for_arrives() {
    let request = r#","timeoutMs":1500,"env":{"A":"1"},"fileExtension":".py","stdin":"in",
        "installPackages":["numpy"],"metadata":{"who":["me"]}"#;
    let rest = r#","options":{"network":"filtered","networkFilter":{"whitelist":["a"]},
        "cpuLimit":0.5,"memoryLimit":"64m","pidsLimit":9,"readonlyRootFs":false,
        "maxOutputSize":1024,"secrets":{"S":"v"},"timeoutMs":9,"sandboxSize":"10m",
        "tmpSize":"11m","persist":true,"logNetwork":true},"sessionId":"work""#;
    let start = job(request, rest).expect("it is right").start;
    let limits = start.limits.expect("limits");
    assert_eq!(limits.timeout_ms, 1500, "that of the request comes first");
    assert_eq!(limits.memory_bytes, 64 << 20);
    assert_eq!((limits.cpu_millis, limits.pids), (500, 9));
    assert_eq!(
        (limits.sandbox_bytes, limits.tmp_bytes),
        (10 << 20, 11 << 20)
    );
    assert_eq!(limits.max_output_bytes, 1024);
    assert_eq!(start.network(), NetworkMode::Filtered);
    let filter = start.filter.clone().expect("a filter");
    assert_eq!(filter.allow.expect("a list").patterns, ["a"]);
    assert_eq!(filter.deny, None);
    assert_eq!(
        (start.env["A"].as_str(), start.secrets["S"].as_str()),
        ("1", "v")
    );
    assert_eq!(start.extension, "py");
    assert_eq!(start.install, ["numpy"]);
    assert!(start.writable && start.stdin && start.persist && start.log_network);
    assert!(start.session.is_some_and(|name| name.ends_with(".work")));
}

#[test]
fn a_wrong_value_is_refused_with_its_field() {
    refused(
        r#","timeoutMs":0"#,
        "",
        400,
        "`request.timeoutMs`: 0 is not",
    );
    refused(
        "",
        r#","options":{"timeoutMs":0}"#,
        400,
        "`options.timeoutMs`",
    );
    refused(
        r#","timeoutMs":1"#,
        r#","options":{"timeoutMs":0}"#,
        400,
        "`options.timeoutMs`",
    );
    refused(
        "",
        r#","options":{"memoryLimit":"much"}"#,
        400,
        "`options.memoryLimit`",
    );
    refused(
        "",
        r#","options":{"memoryLimit":"1k"}"#,
        400,
        "`options.memoryLimit`: the least",
    );
    refused(
        "",
        r#","options":{"cpuLimit":-1}"#,
        400,
        "`options.cpuLimit`",
    );
    refused(
        "",
        r#","options":{"cpuLimit":1e99}"#,
        400,
        "`options.cpuLimit`",
    );
    refused(
        "",
        r#","options":{"pidsLimit":0}"#,
        400,
        "`options.pidsLimit`",
    );
    refused(
        "",
        r#","options":{"tmpSize":"0"}"#,
        400,
        "`options.tmpSize`",
    );
    refused(
        "",
        r#","options":{"maxOutputSize":0}"#,
        400,
        "`options.maxOutputSize`",
    );
    refused(
        "",
        r#","options":{"maxOutputSize":99999999}"#,
        400,
        "`options.maxOutputSize`",
    );
    refused(
        "",
        r#","options":{"logNetwork":true}"#,
        400,
        "`options.logNetwork`",
    );
    let filter = r#","options":{"network":"none","networkFilter":{}}"#;
    refused("", filter, 400, "`options.networkFilter`");
    refused("", r#","sessionId":"""#, 400, "`sessionId`");
    refused("", r#","sessionId":"a/b""#, 400, "`sessionId`");
    let long = format!(r#","sessionId":"{}""#, "x".repeat(47));
    refused("", &long, 400, "`sessionId`");
    refused(
        r#","files":{"/etc/x":""}"#,
        "",
        400,
        "`request.files`: `/etc/x` is outside",
    );
    refused(
        r#","files":{"a":{"base64":"?"}}"#,
        "",
        400,
        "`request.files.a`: not base64",
    );
    refused(
        r#","outputPaths":["../x"]"#,
        "",
        400,
        "`request.outputPaths`",
    );
}

#[test]
fn the_policy_names_its_rule() {
    let host = r#","options":{"network":"host"}"#;
    refused(
        "",
        host,
        403,
        "the network `host` is forbidden by `policy.allowHostNetwork`",
    );
    let image = r#","options":{"image":"alpine:3"}"#;
    refused(
        "",
        image,
        403,
        "the image `alpine:3` is not in the list of `policy.images`",
    );
    let policy = Policy {
        allow_host_network: true,
        images: vec!["alpine:3".to_owned()],
        ..Policy::default()
    };
    assert!(job_under(&policy, "", host).is_ok());
    assert!(job_under(&policy, "", image).is_ok());
    let other = r#","options":{"image":"alpine:31"}"#;
    assert!(job_under(&policy, "", other).is_err(), "word for word");
}

#[test]
fn a_session_belongs_to_its_key() {
    let id = SessionId::parse("sessionId", &"x".repeat(46)).expect("an id");
    let (one, two) = (caller("one"), caller("two"));
    let name = id.name(&one);
    assert!(
        isol8_core::session::SessionName::parse(&name).is_ok(),
        "{name}"
    );
    assert_eq!(SessionId::of_name(&name, &one), Some(id.clone()));
    assert_eq!(SessionId::of_name(&name, &two), None);
    assert_ne!(name, id.name(&two));
}

#[test]
fn files_make_a_session_that_no_id_leads_to() {
    let caller = caller("key");
    for request in [r#","files":{"a":"b"}"#, r#","outputPaths":["a"]"#] {
        let job = job(request, "").expect("it is right");
        let name = job.start.session.expect("a session");
        assert!(job.temporary);
        assert!(
            isol8_core::session::SessionName::parse(&name).is_ok(),
            "{name}"
        );
        assert_eq!(SessionId::of_name(&name, &caller), None);
    }
    let named = job(r#","files":{"a":"b"}"#, r#","sessionId":"work""#).expect("it is right");
    assert!(!named.temporary);
}

#[test]
fn what_opens_a_session_has_nothing_of_the_program() {
    let request = r#","files":{"a":"b"},"env":{"A":"1"},"installPackages":["numpy"]"#;
    let job = job(
        request,
        r#","options":{"secrets":{"S":"v"},"memoryLimit":"64m"}"#,
    );
    let job = job.expect("it is right");
    let opening = job.opening();
    assert!(opening.code.is_empty() && opening.env.is_empty() && opening.secrets.is_empty());
    assert!(opening.install.is_empty());
    assert_eq!(
        opening.network(),
        NetworkMode::Filtered,
        "the packages will need it"
    );
    assert_eq!(
        (opening.session, opening.limits),
        (job.start.session, job.start.limits)
    );
}
