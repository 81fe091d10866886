//! Node programs.

use isol8_core::runtime::Runtime;

use super::{Case, case, check};

const STATE: &[Case] = &[
    case(
        "argv and main",
        "main.js",
        "console.log(process.argv, process.execArgv, process.execPath, process.argv0, process.title);
console.log(__filename, __dirname, require.main === module, require.main.filename, module.id);
console.log(module.paths, module.parent, module.children, module.loaded, require.resolve('./main'));
console.log(require('fs').readFileSync('/proc/self/cmdline', 'utf8').split('\\0'));",
    ),
    case(
        "argv and main, cjs",
        "main.cjs",
        "console.log(process.argv, process.execArgv, __filename, require.main === module);
console.log(require.main.filename, module.id, Object.keys(require.cache), process.argv0);
console.log(new Error('here').stack);",
    ),
    case(
        "argv and main, mjs",
        "main.mjs",
        "import { createRequire } from 'module';
console.log(process.argv, process.execArgv, import.meta.url, import.meta.dirname, import.meta.filename);
console.log(import.meta.resolve?.('./x.js'), typeof require, Object.keys(import.meta), this);
console.log(createRequire(import.meta.url).main, new Error('here').stack);",
    ),
    Case {
        env: &[("ZED", "1"), ("ALPHA", "a=b=c"), ("EMPTY", ""), ("ÜML", "ä\nö"), ("HOME", "/tmp")],
        ..case(
            "environment",
            "main.js",
            "console.log(Object.entries(process.env), process.env.NODE_OPTIONS, 'ISOL8_PARK_FD' in process.env);
console.log(require('child_process').execFileSync('/usr/bin/env').toString());
console.log(require('os').homedir(), require('os').tmpdir(), require('module').globalPaths);",
        )
    },
    Case {
        filtered: true,
        env: &[("MINE", "1")],
        ..case(
            "filtered network",
            "main.js",
            "console.log(Object.entries(process.env));
console.log(require('child_process').execFileSync('/usr/bin/env').toString());
const tls = require('tls'), http = require('http'), https = require('https');
console.log(tls.getCACertificates?.('extra').length, http.globalAgent.options, https.globalAgent.options);
console.log(Object.getOwnPropertySymbols(globalThis), process.getActiveResourcesInfo());
fetch('http://localhost:1/').catch((error) => console.log(error.message, error.cause?.code));
fetch('http://example.test/').catch((error) => console.log(error.message, error.cause?.code));",
        )
    },
    Case {
        cwd: "/tmp",
        ..case("folder", "main.js", "console.log(process.cwd(), require('path').resolve('x'), process.env.PWD);")
    },
    case(
        "module system",
        "main.js",
        "const Module = require('module');
console.log(Object.keys(require.cache), Object.keys(Module._pathCache), Module.globalPaths);
console.log(Object.keys(require.extensions), Module.builtinModules.length, Object.getOwnPropertyNames(Module).sort());
console.log(Object.getOwnPropertyNames(Module._pathCache));",
    ),
    case(
        "module system, cjs",
        "main.cjs",
        "const Module = require('module');\nconsole.log(Object.getOwnPropertyNames(Module._pathCache), require.cache[__filename] === module);",
    ),
    case(
        "module system, mjs",
        "main.mjs",
        "import Module from 'module';\nconsole.log(Object.getOwnPropertyNames(Module._pathCache), Object.keys(Module._cache));",
    ),
    case(
        "handles and listeners",
        "main.js",
        "console.log(process._getActiveHandles().length, process._getActiveRequests().length, process.getActiveResourcesInfo());
console.log(process.eventNames().map((n) => [n, process.listenerCount(n)]), process.exitCode);
const { AsyncResource, executionAsyncId } = require('async_hooks');
console.log(executionAsyncId(), new AsyncResource('x').asyncId());",
    ),
    case(
        "globals",
        "main.js",
        "console.log(Object.getOwnPropertyNames(globalThis).sort(), Error.stackTraceLimit, Error.prepareStackTrace);
console.log(process.versions, process.features, process.release.name, JSON.stringify(process.config).length);
console.log(Object.getOwnPropertyNames(process).sort());",
    ),
    case(
        "descriptors and process",
        "main.js",
        "const fs = require('fs');
console.log(fs.openSync('/dev/null'), fs.readdirSync('/proc/self/fd').sort().map((n) => {
  try { return [n, fs.readlinkSync('/proc/self/fd/' + n).replace(/\\d+/g, 'N')]; } catch { return n; }
}));
console.log(process.umask(), process.ppid, process.getuid(), process.pid);
console.log(fs.readFileSync('/proc/self/status', 'utf8').split('\\n').filter((l) => /^(Sig|Shd|Cap|Threads)/.test(l)));",
    ),
    case(
        "report",
        "main.js",
        "const { header, environmentVariables } = process.report.getReport();\nconsole.log(header.commandLine, header.cwd, environmentVariables);",
    ),
    case("streams", "main.js", "for (const s of [process.stdout, process.stderr, process.stdin]) console.log(s.constructor.name, s.fd, s.isTTY, s.writable, s.readable, s.readableFlowing);"),
    Case {
        env: &[("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLORTERM", "truecolor")],
        ..case("colours", "main.js", "console.log({ a: 1 }, process.stdout.hasColors?.(), require('util').styleText?.('red', 'x'));\nconsole.error(new Error('e').message);\nrequire('assert').deepStrictEqual({ a: 1 }, { a: 2 });")
    },
    Case {
        env: &[("NO_COLOR", "1"), ("FORCE_COLOR", "1")],
        ..case("no colours", "main.js", "console.log({ a: 1 });\nrequire('assert').strictEqual(1, 2);")
    },
    case("zone and language", "main.js", "console.log(Intl.DateTimeFormat().resolvedOptions(), new Date(0).toString(), (1234.5).toLocaleString());"),
];

const ENDS: &[Case] = &[
    case("uncaught", "main.js", "function f() { null.x; }\nf();"),
    case(
        "uncaught, cjs",
        "main.cjs",
        "setTimeout(() => { throw new TypeError('late'); }, 1);",
    ),
    case(
        "uncaught, mjs",
        "main.mjs",
        "const f = () => { throw new Error('m', { cause: new Error('c') }); };\nf();",
    ),
    case("syntax error", "main.js", "const x = ;"),
    case(
        "syntax error, mjs",
        "main.mjs",
        "import { nothing } from 'fs';",
    ),
    case(
        "import in a script",
        "main.js",
        "import fs from 'fs';\nconsole.log(typeof fs.readFileSync);",
    ),
    case("missing module", "main.js", "require('./no-such');"),
    case("missing module, mjs", "main.mjs", "import 'no-such';"),
    case(
        "rejection",
        "main.js",
        "Promise.reject(new Error('unseen'));\nconsole.log('before');",
    ),
    case(
        "rejection of no error",
        "main.mjs",
        "process.on('exit', (c) => console.log('exit', c));\nawait Promise.reject(7);",
    ),
    case(
        "never settled",
        "main.mjs",
        "console.log('waiting');\nawait new Promise(() => {});",
    ),
    case(
        "process.exit",
        "main.js",
        "process.on('exit', (c) => console.log('on', c));\nsetInterval(() => {}, 1e6);\nconsole.log('a');\nprocess.exit(3);",
    ),
    case(
        "exitCode and beforeExit",
        "main.js",
        "process.exitCode = 12;\nlet n = 0;\nprocess.on('beforeExit', () => { if (n++ < 1) setTimeout(() => console.log('again'), 1); });\nprocess.on('exit', (c) => console.log('end', c));",
    ),
    case(
        "death by signal",
        "main.js",
        "require('fs').writeSync(1, 'x');\nprocess.kill(process.pid, 'SIGTERM');\nsetInterval(() => {}, 1e6);",
    ),
    case(
        "signal handler",
        "main.js",
        "const t = setInterval(() => {}, 1e6);\nprocess.on('SIGINT', (s, n) => { console.log(s, n); clearInterval(t); });\nprocess.kill(process.pid, 'SIGINT');",
    ),
    case(
        "warnings",
        "main.js",
        "new Buffer(1);\nprocess.emitWarning('mine', 'Odd', 'X1');\nfor (let i = 0; i < 11; i++) process.on('x', () => {});",
    ),
    case(
        "uncaughtException handler",
        "main.js",
        "process.on('uncaughtException', (e, o) => console.log(e.message, o));\nthrow new Error('caught');",
    ),
];

const WORK: &[Case] = &[
    Case {
        stdin: Some("one\nzwei ä\nlast"),
        ..case("stdin events", "main.js", "let s = '';\nprocess.stdin.on('data', (d) => { s += d; }).on('end', () => console.log([s]));")
    },
    Case {
        stdin: Some("all of it\n"),
        ..case("stdin at once", "main.mjs", "import fs from 'fs';\nconsole.log([fs.readFileSync(0, 'utf8')]);")
    },
    case("no stdin", "main.js", "process.stdin.resume().on('end', () => console.log('end'));"),
    case("big stdout at exit", "main.js", "process.stdout.write('x'.repeat(5e6) + '\\n');\nprocess.stderr.write('e'.repeat(3e5));\nprocess.on('exit', () => console.log('bye'));"),
    case("order of tasks", "main.js", "setImmediate(() => console.log('immediate'));\nPromise.resolve().then(() => console.log('micro'));\nprocess.nextTick(() => console.log('tick'));\nqueueMicrotask(() => console.log('micro 2'));\nconsole.log('sync');"),
    case(
        "order of imports",
        "main.js",
        "for (const m of ['fs', 'node:path', 'path/posix', './main.js', 'data:text/javascript,']) import(m).then(() => console.log(m));
let n = 0;
const turn = () => { console.log(n); if (n++ < 5) setImmediate(turn); };
process.nextTick(() => console.log('tick'));
(async () => { for (let i = 0; i < 30; i++) { await 0; console.log('await', i); } })();",
    ),
    case(
        "order of imports, mjs",
        "main.mjs",
        "for (const m of ['fs', 'path/posix', 'data:text/javascript,']) import(m).then(() => console.log(m));
(async () => { for (let i = 0; i < 30; i++) { await 0; console.log('await', i); } })();
console.log(await import('net').then((m) => Object.keys(m).length));",
    ),
    case("order of tasks, mjs", "main.mjs", "setImmediate(() => console.log('immediate'));\nPromise.resolve().then(() => console.log('micro'));\nprocess.nextTick(() => console.log('tick'));\nawait 0;\nconsole.log('after');"),
    case(
        "worker",
        "main.js",
        "const { Worker, isMainThread, threadId } = require('worker_threads');
if (isMainThread) new Worker(__filename, { argv: ['a'] }).on('exit', (c) => console.log('exit', c));
else console.log(threadId, process.argv, process.execArgv, Object.entries(process.env), Object.keys(require.cache), module.children, require.main === module, Object.keys(require('module')._pathCache));",
    ),
    case(
        "forked child",
        "main.js",
        "const { fork, execFileSync } = require('child_process');
if (process.argv[2]) { process.send([process.argv, process.execArgv, process.env, Object.keys(require.cache)]); }
else {
  fork(__filename, ['child']).on('message', (m) => console.log(m));
  console.log(execFileSync(process.execPath, ['-p', 'process.execArgv.concat(Object.keys(require.cache))']).toString());
}",
    ),
    Case {
        files: &[("package.json", "{\"type\": \"module\"}"), ("x.js", "export const x = import.meta.url;")],
        ..case("package of type module", "main.js", "import { x } from './x.js';\nconsole.log(x, import.meta.url, await import('fs').then((m) => typeof m.default), process.argv);")
    },
    Case {
        files: &[
            ("lib/index.js", "exports.up = module.parent.filename; exports.paths = module.paths;"),
            ("data.json", "{\"a\": 1}"),
            ("node_modules/pack/index.js", "module.exports = __filename;"),
            ("e.mjs", "export default import.meta.url;"),
        ],
        ..case("own modules", "main.cjs", "console.log(require('./lib'), require('./data'), require('pack'), module.children.map((c) => c.id));\nimport('./e.mjs').then((m) => console.log(m.default));")
    },
    Case {
        cwd: "/tmp",
        files: &[("node_modules/pack/index.js", "module.exports = __filename;")],
        ..case("NODE_PATH", "main.js", "console.log(require('module').createRequire('/tmp/x.js')('pack'));")
    },
    case("typescript", "main.ts", "const x: number = 1;\nconsole.log(x, __filename, process.argv);"),
    case("typescript module", "main.mts", "const x: number = 1;\nexport {};\nconsole.log(x, import.meta.url);"),
    case("no extension", "main", "console.log(__filename, process.argv, require.main === module);"),
    case("module syntax in a script", "main.js", "const x = await import('fs');\nconsole.log(typeof x.readFileSync, import.meta.url);"),
    case("vm and eval", "main.js", "const vm = require('vm');\nconsole.log(vm.runInNewContext('1 + 1'), eval('typeof module'), new Function('return typeof require')());\ntry { vm.runInThisContext('throw new Error(1)', 'f.js'); } catch (e) { console.log(e.stack); }"),
    case("big libraries", "main.js", "for (const m of ['http', 'https', 'crypto', 'zlib', 'net', 'tls', 'readline', 'perf_hooks', 'test']) { try { require(m); } catch (e) { console.log(m, e.code); } }\nconsole.log(require('crypto').createHash('sha256').update('x').digest('hex'), typeof fetch, structuredClone({ a: 1 }));"),
    case("compressed in threads", "main.mjs", "import { promisify } from 'util';\nimport zlib from 'zlib';\nconst out = await Promise.all([1, 2, 3, 4, 5].map((n) => promisify(zlib.gzip)('x'.repeat(n * 1e5))));\nconsole.log(out.map((b) => b.length));"),
];

#[test]
fn what_node_shows_of_itself_is_the_same() {
    check(Runtime::Node, STATE);
}

#[test]
fn how_node_ends_is_the_same() {
    check(Runtime::Node, ENDS);
}

#[test]
fn what_node_does_is_the_same() {
    check(Runtime::Node, WORK);
}
