use std::os::unix::fs::symlink;

use isol8_core::{package::Package, runtime::Runtime, sandbox::Network};
use isol8_engine::Interpreter;

use super::*;

/// A host with apt and these files.
fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its owner");
    };
    for tool in TOOLS {
        write(tool, "");
    }
    write(STATUS, "Package: bash\n");
    for (path, text) in files {
        write(path, text);
    }
    root
}

fn look(root: &tempfile::TempDir) -> Apt {
    Apt::look(root.path()).expect("it has apt")
}

/// Names below the jail's `etc`, with their text.
fn etc(apt: &Apt) -> Vec<(String, String)> {
    let files = apt.files().iter();
    let below = files.filter_map(|file| {
        let name = file.path.strip_prefix(".isol8-install/apt/etc/")?;
        let text = String::from_utf8_lossy(&file.data);
        Some((name.to_owned(), text.into_owned()))
    });
    below.collect()
}

#[test]
fn a_jail_gets_what_everybody_may_read() {
    let root = host(&[
        (
            "etc/apt/sources.list",
            "deb http://a.example/debian stable main\n",
        ),
        (
            "etc/apt/sources.list.d/b.list",
            "deb http://b.example stable main\n",
        ),
        ("etc/apt/sources.list.d/b.list.save", "old"),
        (
            "etc/apt/sources.list.d/c.sources",
            "Types: deb\nURIs: http://c.example\n",
        ),
        ("etc/apt/preferences.d/pin", "Package: *\n"),
        ("etc/apt/trusted.gpg.d/key.asc", "key"),
        ("etc/apt/keyrings/other.gpg", "key"),
        ("etc/apt/auth.conf", "machine a.example password x"),
        ("etc/apt/auth.conf.d/b.conf", "machine b.example password x"),
        ("etc/apt/apt.conf.d/hook", "DPkg::Post-Invoke { \"x\"; };"),
        (
            "etc/apt/sources.list.d/private.list",
            "deb http://d.example stable main\n",
        ),
    ]);
    let private = root.path().join("etc/apt/sources.list.d/private.list");
    fs::set_permissions(private, fs::Permissions::from_mode(0o640)).expect("its owner");
    let link = root.path().join("etc/apt/trusted.gpg.d/gone.gpg");
    symlink("/nonexistent", link).expect("a link");
    let apt = look(&root);
    let names: Vec<String> = etc(&apt).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "sources.list",
        "sources.list.d/b.list",
        "sources.list.d/c.sources",
        "preferences.d/pin",
        "trusted.gpg.d/key.asc",
        "keyrings/other.gpg",
    ];
    assert_eq!(names, expected);
    let paths: Vec<&str> = apt.files()[..2].iter().map(|file| &*file.path).collect();
    let expected = [".isol8-install/apt/apt.conf", ".isol8-install/apt/status"];
    assert_eq!(paths, expected);
    assert_eq!(apt.files()[1].data, "Package: bash\n");
}

#[test]
fn a_folder_that_is_not_for_everybody_is_left_out() {
    let root = host(&[("etc/apt/keyrings/key.gpg", "key")]);
    let folder = root.path().join("etc/apt/keyrings");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o750)).expect("its owner");
    assert_eq!(etc(&look(&root)), []);
}

#[test]
fn a_source_with_a_password_is_left_out() {
    let root = host(&[
        (
            "etc/apt/sources.list",
            "# deb https://me:old@a.example x main\n\
             deb [arch=amd64] https://me:secret@a.example/q x main\n\
             deb https://b.example/@scope x main\n",
        ),
        (
            "etc/apt/sources.list.d/c.sources",
            "Types: deb\nURIs: http://c.example\n   https://token@d.example\nSuites: x\n\
             \n\
             Types: deb\n# URIs: http://u:p@e.example\nURIs: http://e.example\n",
        ),
        (
            "etc/apt/mirrors/list",
            "http://f.example\thint\nhttp://u:p@g.example\n",
        ),
    ]);
    let apt = look(&root);
    let all: String = etc(&apt).into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        all,
        "deb https://b.example/@scope x main\nTypes: deb\nURIs: http://e.example\nhttp://f.example\thint\n"
    );
}

#[test]
fn paths_of_keyrings_lead_to_the_jails_own() {
    let root = host(&[(
        "etc/apt/sources.list",
        "deb [signed-by=/etc/apt/keyrings/a.gpg] http://a.example/etc/apt/x y z\n\
         deb mirror+file:/etc/apt/mirrors/m x y\n",
    )]);
    let (_, text) = etc(&look(&root)).pop().expect("one file");
    let at = "/sandbox/.isol8-install/apt/etc";
    let expected = format!(
        "deb [signed-by={at}/keyrings/a.gpg] http://a.example/etc/apt/x y z\n\
         deb mirror+file:{at}/mirrors/m x y\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn apt_says_where_it_goes() {
    let root = host(&[(
        "etc/apt/mirrors/list",
        "http://Mirror.Example:8080/debian priority:1\n",
    )]);
    let answer = b"'http://a.example/debian/dists/x/InRelease' a_InRelease 0 \n\
        'https://B.example./x' b 0\n\
        'mirror+https://list.example/x' c 0\n\
        'mirror+file:/etc/apt/mirrors/list/dists/x' d 0\n\
        'file:/srv/repo/x' e 0\n\
        Reading package lists...\n";
    let hosts = look(&root).hosts(answer);
    let expected = ["a.example", "b.example", "list.example", "mirror.example"];
    assert_eq!(hosts, expected.map(str::to_owned).into());
}

#[test]
fn what_the_host_has_counts() {
    let print = |files: &[(&str, &str)]| look(&host(files)).fingerprint();
    let source = ("etc/apt/sources.list", "deb http://a.example x y\n");
    let usual = print(&[source]);
    assert_eq!(usual, print(&[source]));
    for other in [
        print(&[]),
        print(&[source, (STATUS, "Package: dash\n")]),
        print(&[source, ("etc/apt/preferences.d/pin", "")]),
        print(&[("etc/apt/preferences", source.1)]),
    ] {
        assert_ne!(usual, other);
    }
}

#[test]
fn a_host_without_apt_says_so() {
    for missing in TOOLS.into_iter().chain([STATUS]) {
        let root = host(&[]);
        fs::remove_file(root.path().join(missing)).expect("it is there");
        let failure = Apt::look(root.path()).expect_err(missing);
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.causes[0].contains(missing), "{failure:?}");
        assert_eq!(failure.hint.as_deref(), Some("use `--engine docker`"));
    }
    let root = host(&[(OTHER_GPGV, "")]);
    fs::remove_file(root.path().join(GPGV)).expect("it is there");
    look(&root);
}

#[test]
fn packages_are_arguments_of_their_own() {
    let interpreter = Interpreter {
        program: "/bin/bash".to_owned(),
        path: "/usr/bin".to_owned(),
        parkable: false,
        authorities: Some("/run/ca.pem".to_owned()),
        deno_dir: None,
    };
    let packages = Package::parse_all(Runtime::Bash, &["jq", "g++"]).expect("good packages");
    let order = Order {
        runtime: Runtime::Bash,
        interpreter: &interpreter,
        network: Network::Filtered,
        packages: &packages,
        for_layer: true,
        of_host: true,
        apt: None,
    };
    let steps = Apt::install(&order);
    assert!(steps.iter().all(|step| step.must == Must::Succeed));
    let authorities = "Acquire::https::CAInfo=/run/ca.pem";
    let update = ["/bin/sh", "-c", UPDATE, "update", "-o", authorities];
    assert_eq!(steps[0].argv, update);
    let install =
        "apt-get -q -y --download-only install -o Acquire::https::CAInfo=/run/ca.pem -- g++ jq";
    assert_eq!(steps[1].argv.join(" "), install);
    assert_eq!(
        steps[1].env["APT_CONFIG"],
        "/sandbox/.isol8-install/apt/apt.conf"
    );
    assert_eq!(steps[1].env["http_proxy"], "http://127.0.0.1:8118");
    assert_eq!(steps[2].argv, ["/bin/sh", "-c", UNPACK]);
    let asked = Apt::question(&order);
    assert_eq!(asked.argv.join(" "), "apt-get -q update --print-uris");
    assert_eq!(asked.env["APT_CONFIG"], steps[1].env["APT_CONFIG"]);
}

/// The two texts name the folders as the code does.
#[test]
fn the_texts_agree_on_folders() {
    let apt = format!("{SCRATCH}/apt/");
    assert!(CONFIG.matches(&apt).count() >= 6);
    assert_eq!(
        CONFIG.matches("/sandbox/").count(),
        CONFIG.matches(&apt).count()
    );
    assert!(UNPACK.contains(&format!("cd /sandbox/{TREE}\n")));
    assert!(UNPACK.contains(&format!("{apt}cache/archives/*.deb")));
}
