//! PR07: what is no package is refused before anything runs.

both_engines_online! {
    /// Options, paths, archives, repositories, shell text, nothing.
    fn what_is_no_package_is_a_usage_error(stage: &Stage, internet: &Internet) {
        let everywhere = [
            "", " ", "-r", "-r/sandbox/x", "--index-url=http://e.example", "--registry=http://e.example", "-g", "p;id",
            "p&&id", "p|id", "$(id)", "`id`", "p\nq", "p\0q", "../p", "./p", "/sandbox/e.whl", "~/p", "file:///etc/passwd",
            "p q", "p'", "p\"", "p\\q", "p>q>r", "{a,b}", "p #", "p\tq", "\u{202e}p",
        ];
        let own: [(&str, &[&str]); 5] = [
            ("python", &["git+https://e.example/r@--upload-pack=id", "https://e.example/p.whl", "p @ https://e.example/p.whl",
                "e.tar.gz/../x", "p; python_version<'3'", "p[", "==1", "p==", ".", "p.whl"]),
            ("node", &["git+ssh://e.example/r", "https://e.example/p.tgz", "user/repository", "github:user/repository", "p@file:x",
                "p@git+https://e.example/r", "@/p", "@scope", "..", "p@", "UPPER case"]),
            ("bun", &["git+ssh://e.example/r", "https://e.example/p.tgz", "user/repository", "p@file:x", "@scope"]),
            ("deno", &["p", "npm:", "npm:../x", "http://user:secret@e.example/m.ts", "ftp://e.example/m.ts", "data:text/javascript,1"]),
            ("bash", &["jq=1;id", "p/", "+", "jq --force", "*", "jq*"]),
        ];
        for (runtime, names) in own {
            for name in everywhere.iter().chain(names) {
                if name.contains('\0') {
                    // No command line can carry it.
                    continue;
                }
                let ran = stage.isol8(["run", "-r", runtime, "-e", "1"]).arg(format!("--install={name}")).go();
                assert_eq!(ran.code(), 2, "{runtime} {name:?}: {ran:?}");
                assert!(ran.err().contains("error: ") && ran.err().contains("hint: "), "{runtime} {name:?}: {ran:?}");
                assert_eq!(ran.out(), "");
            }
        }
        // Nothing was made for any of them.
        assert_eq!(stage.status()["installCache"]["misses"].as_u64().unwrap_or_default(), 0);
        stage.isol8(["run", "-e", "1", "--no-install-cache"]).go().ended(2);
        assert_eq!(internet.origin.take_connections(), []);
    }
}
