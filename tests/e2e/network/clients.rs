//! The tools people use, as they come: a permitted host answers, a refused one
//! is a 403 with the reason, a dead one a 502.

use isol8_e2e::harness::{
    call::Ran,
    internet::{DEAD_PORT, Internet, PUBLIC},
    stage::Stage,
};

use super::vector::EVIL;

const BLOCKED: &str = "isol8: request to evil.example blocked by network filter";

#[track_caller]
fn goes(stage: &Stage, runtime: &str, code: &str) -> Ran {
    let code = code.replace("DEAD", &DEAD_PORT.to_string());
    let args = [
        "--net",
        "filtered",
        "--allow",
        r"example\.com",
        "--timeout",
        "60000",
    ];
    let ran = stage.eval(runtime, &code).args(args).go();
    ran.ok();
    ran
}

/// What each client prints: the permitted host by HTTP and HTTPS, the refused
/// one by both, the dead one.
#[track_caller]
fn as_expected(ran: &Ran) {
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 5, "{ran:?}");
    assert_eq!(lines[0], "200 origin /plain", "{ran:?}");
    assert_eq!(lines[1], "200 origin /secure", "{ran:?}");
    assert_eq!(lines[2], format!("403 {BLOCKED}"), "{ran:?}");
    assert!(
        lines[3].contains("403") || lines[3].starts_with("failed"),
        "{ran:?}"
    );
    assert!(
        lines[4].starts_with("502 isol8: cannot reach example.com: "),
        "{ran:?}"
    );
}

#[track_caller]
fn two_requests(internet: &Internet) {
    let seen = internet.origin.take_seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path()).collect();
    assert_eq!(paths, ["/plain", "/secure"]);
    let tls: Vec<bool> = seen.iter().map(|seen| seen.tls).collect();
    assert_eq!(tls, [false, true]);
}

/// `fetch` is the same in bun, deno and node.
const FETCH: &str = "const go = async (url) => {\n\
    try { const r = await fetch(url); console.log(r.status, (await r.text()).trim()) }\n\
    catch (e) { console.log('failed', String(e.cause ?? e).replaceAll('\\n', ' ')) } };\n\
    (async () => { for (const url of ['http://example.com/plain', 'https://example.com/secure',\n\
    'http://evil.example/', 'https://evil.example/', 'http://example.com:DEAD/']) await go(url) })();";

const NODE: &str = "const http = require('http');\n\
    const get = url => new Promise(done => http.get(url, r => { let text = '';\n\
    r.on('data', d => text += d).on('end', () => done([r.statusCode, text.trim()])) }).on('error', e => done(['failed', e.code])));\n\
    const go = async url => { if (url.startsWith('http:')) return get(url);\n\
    try { const r = await fetch(url); return [r.status, (await r.text()).trim()] } catch (e) { return ['failed', String(e.cause ?? e)] } };\n\
    (async () => { for (const url of ['http://example.com/plain', 'https://example.com/secure',\n\
    'http://evil.example/', 'https://evil.example/', 'http://example.com:DEAD/']) console.log(...await go(url)) })();";

both_engines_online! {
    /// urllib with the authorities of the configuration.
    fn python(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let code = "import urllib.request, urllib.error\n\
            for url in ('http://example.com/plain', 'https://example.com/secure', 'http://evil.example/', 'https://evil.example/', 'http://example.com:DEAD/'):\n \
             try: r = urllib.request.urlopen(url); print(r.status, r.read().decode().strip())\n \
             except urllib.error.HTTPError as e: print(e.code, e.read().decode().strip())\n \
             except urllib.error.URLError as e: print('failed', e)";
        as_expected(&goes(stage, "python", code));
        two_requests(internet);
    }

    fn bun(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        as_expected(&goes(stage, "bun", FETCH));
        two_requests(internet);
    }

    fn deno(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        as_expected(&goes(stage, "deno", FETCH));
        two_requests(internet);
    }

    /// Node looks at the proxy's variables from version 24 on; an older one of
    /// the host has no way out but a proxy agent. Its `fetch` opens a tunnel for
    /// plain HTTP too, and tunnels carry TLS alone: `http.get` does not.
    fn node(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let version = stage.eval("node", "console.log(process.versions.node.split('.')[0])").go().ok();
        if version.trim().parse::<u32>().expect("a number") >= 24 {
            as_expected(&goes(stage, "node", NODE));
            two_requests(internet);
            let plain = goes(stage, "node", "fetch('http://example.com/').catch(e => console.log('failed'))").out();
            assert_eq!((plain.as_str(), internet.origin.take_seen().len()), ("failed\n", 0));
            return;
        }
        let code = "const http = require('http');\n\
            for (const url of ['http://example.com/plain', 'http://evil.example/'])\n\
            http.get({host: '127.0.0.1', port: 8118, path: url, headers: {host: 'x'}},\n\
            r => r.on('data', d => console.log(r.statusCode, String(d).trim())))";
        let out = goes(stage, "node", code).out();
        assert!(out.contains("200 origin /plain") && out.contains(&format!("403 {BLOCKED}")), "{out}");
        assert_eq!(internet.origin.take_seen().len(), 1);
        let direct = goes(stage, "node", "fetch('http://example.com/').catch(e => console.log(e.cause.code))").out();
        assert!(["EAI_AGAIN\n", "ENOTFOUND\n"].contains(&direct.as_str()), "{direct}");
        assert_eq!(internet.origin.take_seen().len(), 0);
    }

    /// curl, where the host or the image has it.
    fn bash(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        if stage.bash("command -v curl").go().code() != 0 {
            // The proxy speaks to bash itself.
            let code = "exec 3<>/dev/tcp/127.0.0.1/8118\n\
                printf 'GET http://evil.example/ HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3\ncat <&3";
            assert!(goes(stage, "bash", code).out().contains(BLOCKED));
            assert_eq!(internet.origin.take_seen().len(), 0);
            return;
        }
        let code = "for url in http://example.com/plain https://example.com/secure http://evil.example/ https://evil.example/ http://example.com:DEAD/; do\n\
            code=$(curl -s -o /tmp/body -w '%{http_code} %{http_connect}' $url) || code=\"failed $code\"\n\
            case $code in failed*) echo $code;; *) echo ${code% *} $(cat /tmp/body);; esac; done";
        let ran = goes(stage, "bash", code);
        as_expected(&ran);
        two_requests(internet);
        let around = "env -u http_proxy -u https_proxy -u HTTPS_PROXY -u ALL_PROXY -u all_proxy -u HTTP_PROXY curl -s -m 5 http://198.51.100.10/ || echo $?";
        let out = goes(stage, "bash", around).out();
        assert!(["7\n", "6\n"].contains(&out.as_str()), "{out}");
        assert_eq!(internet.origin.take_seen().len(), 0);
    }
}
