//! Real packages of the real registries, once each. What is fetched is small;
//! numpy is the one with compiled code.

use isol8_e2e::harness::{
    call::Ran,
    host,
    stage::{Engine, Stage},
    wait::seconds,
};

/// A cold installation with its output, then a warm run without any.
#[track_caller]
fn twice(stage: &Stage, runtime: &str, packages: &[&str], code: &str, expected: &str) -> [Ran; 2] {
    let go = || {
        let call = stage
            .eval(runtime, code)
            .args(["--timeout", "110000", "--memory", "1g"]);
        packages
            .iter()
            .fold(call, |call, package| call.args(["--install", *package]))
            .go()
    };
    let cold = go();
    assert_eq!(cold.ok(), expected, "{cold:?}");
    // Deno has loaded everything when its registries are learned.
    assert!(
        runtime == "deno" || !cold.err().is_empty(),
        "the installer's words are shown: {cold:?}"
    );
    let warm = go();
    assert_eq!(warm.ok(), expected, "{warm:?}");
    assert_eq!(warm.err(), "", "nothing is installed twice");
    warm.within(seconds(5));
    // Packages of bash are an image on Docker.
    if runtime != "bash" || stage.engine() == Engine::Native {
        let cache = stage.status()["installCache"].clone();
        assert!(cache["hits"].as_u64() > Some(0), "{cache}");
    }
    [cold, warm]
}

both_engines! {
    /// One with compiled code, one without.
    fn python(stage: &Stage) {
        let code = "import numpy; print(int(numpy.arange(10).sum()), numpy.__file__.startswith('/sandbox/.local/'))";
        let [cold, _] = twice(stage, "python", &["numpy"], code, "45 True\n");
        cold.says("numpy");
        twice(stage, "python", &["six==1.17.0"], "import six; print(six.__version__)", "1.17.0\n");
        let ran = stage.python("print('ran')").args(["--install", "isol8-no-such-package-4711"]).go();
        ran.ended(125).says("isol8-no-such-package-4711").says("hint: ");
        assert_eq!(ran.out(), "");
    }

    /// CommonJS by `require`, and one that is a module only by `import`.
    fn node(stage: &Stage) {
        twice(stage, "node", &["ms@2.1.3"], "console.log(require('ms')('2 days'))", "172800000\n");
        let import = "import Queue from 'yocto-queue'; const q = new Queue(); q.enqueue('in'); console.log(q.dequeue(), q.size)";
        twice(stage, "node", &["yocto-queue@1.2.1"], import, "in 0\n");
        let ran = stage.eval("node", "1").args(["--install", "isol8-no-such-package-4711"]).go();
        ran.ended(125).says("isol8-no-such-package-4711").says("hint: ");
    }

    fn bun(stage: &Stage) {
        twice(stage, "bun", &["ms@2.1.3"], "import ms from 'ms'; console.log(ms('2 days'))", "172800000\n");
    }

    fn deno(stage: &Stage) {
        twice(stage, "deno", &["npm:ms@2.1.3"], "import ms from 'npm:ms@2.1.3'; console.log(ms('2 days'))", "172800000\n");
    }

    /// The system's own package manager; on Docker the first run makes an image,
    /// which stays with the engine when the test is over.
    fn bash(stage: &Stage) {
        if stage.engine() == Engine::Docker {
            let label = "label=isol8.packages=jq";
            let made = host::tool("docker", &["images", "-q", "--no-trunc", "--filter", label]);
            for id in made.lines() {
                drop(host::tool("docker", &["rmi", "-f", id]));
            }
        }
        twice(stage, "bash", &["jq"], "echo '{\"a\": [1, 2]}' | jq -c .a", "[1,2]\n");

        let ran = stage.bash("1").args(["--install", "isol8-no-such-package-4711", "--timeout", "110000"]).go();
        ran.ended(125).says("isol8-no-such-package-4711").says("hint: ");
    }
}
