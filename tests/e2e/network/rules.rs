//! What the command line says about networks, patterns and ports before a run.

both_engines_online! {
    /// NE14: a pattern that means nothing is an error before anything runs,
    /// with the place; never "no filter".
    fn wrong_patterns_are_usage_errors(stage: &Stage, internet: &Internet) {
        for flag in ["--allow", "--deny"] {
            for pattern in ["(", "*", "[a", "a{2,1}", "(?:a{1000}){1000}", "", "(?P<x", "\\"] {
                let ran = stage.python("print('ran')").args(["--net", "filtered", flag, pattern]).go();
                ran.ended(2).says(flag);
                assert_eq!(ran.out(), "", "{pattern}");
            }
            let long = "a".repeat(1 << 16);
            stage.python("print('ran')").args(["--net", "filtered", flag, &long]).go().ended(2);
        }
        let ran = stage.python("1").args(["--net", "filtered", "--allow", "good", "--allow", "bad(group"]).go();
        ran.ended(2).says("bad(group").says("number 2").says("hint:");
        let err = ran.err();
        let lines: Vec<&str> = err.lines().collect();
        let at = lines.iter().position(|line| line.trim_start().starts_with('^')).expect("a caret");
        let caret = lines[at].find('^').expect("a caret");
        assert_eq!(lines[at - 1].get(caret..=caret), Some("("), "the caret is under the place: {ran:?}");
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// Flags that do nothing are not passed over.
    fn lists_need_a_filtered_network(stage: &Stage, internet: &Internet) {
        for flags in [&["--allow", "x"][..], &["--deny", "x"], &["--log-network"], &["--allow", "x", "--net", "host"]] {
            stage.python("1").args(flags).go().ended(2).says("--net filtered");
        }
        stage.python("1").args(["--net", "filter"]).go().ended(2).says("filtered").says("host");
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// A dot that was meant as one.
    fn a_bare_dot_is_pointed_out(stage: &Stage, internet: &Internet) {
        let code = "import urllib.request; print(urllib.request.urlopen('http://example.com/').status)";
        let ran = stage.python(code).args(["--net", "filtered", "--allow", "example.com"]).go();
        assert_eq!(ran.ok(), "200\n");
        ran.says("example.com").says(r"example\.com");
        assert_eq!(ran.err().lines().count(), 1, "{ran:?}");
        for quiet in [r"^example\.com$", "example.*", r"(www\.)?example\.com"] {
            let ran = stage.python(code).args(["--net", "filtered", "--allow", quiet]).go();
            assert_eq!((ran.ok().as_str(), ran.err().as_str()), ("200\n", ""), "{quiet}");
        }
        assert_eq!(internet.origin.take_seen().len(), 4);
    }

    /// Without lists every public host is open, and that is said.
    fn open_lists_are_said(stage: &Stage, internet: &Internet) {
        let code = "import urllib.request, urllib.error\n\
            for url in ('http://example.com/', 'https://example.com/', 'http://127.0.0.1/', 'http://169.254.169.254/'):\n \
             try: print(urllib.request.urlopen(url).status)\n \
             except urllib.error.HTTPError as e: print(e.code)";
        // urllib goes to 127.0.0.1 by itself: NO_PROXY says so. Nobody is there.
        let code = code.replace("'http://127.0.0.1/', ", "");
        let ran = stage.python(&code).args(["--net", "filtered"]).go();
        assert_eq!(ran.ok(), "200\n200\n403\n");
        ran.says("every public host").says("--allow");
        let quiet = stage.python(&code).args(["--net", "filtered", "--deny", "nobody"]).go();
        assert_eq!(quiet.err(), "");
        assert_eq!(internet.origin.take_seen().len(), 4);
    }
}
