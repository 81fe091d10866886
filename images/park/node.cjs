'use strict';
// Parks a starting node until its program comes.
//
// A parked node gets this file by `NODE_OPTIONS=--require=…`. It runs when node
// is up, just before node looks for its entry; it waits for the program's
// folder, file and environment, takes every trace of itself away and lets node
// go on. See the comparison test beside init.
//
// What remains different is what the kernel and V8 keep of the start:
// /proc/self/environ, the start time, `process.uptime()`, `performance.now()`
// (they count from the start of the process), for an entry other than `main.js`
// the name in /proc/self/cmdline; and that `process.moduleLoadList`, which is
// for debugging node itself, names the builtins that are loaded ahead here.
//
// The worker threads of the program load this file too, since they inherit
// `--require`; it then only takes itself away.

(() => {
  const Module = module.constructor;
  delete require.cache[__filename];
  delete Module._pathCache[`${__filename}\0`];
  const fd = Number(process.env.ISOL8_PARK_FD);
  if (!fd) return;
  const fs = require('fs');

  const read = (size) => {
    const data = Buffer.allocUnsafeSlow(size);
    for (let have = 0; have < size; ) {
      const count = fs.readSync(fd, data, have, size - have, null);
      // Nobody will come any more.
      if (count === 0) process.reallyExit(0);
      have += count;
    }
    return data;
  };

  // What nearly every program makes node load and compile: `console` and the
  // streams behind it, and what reads modules. Without them the first byte comes
  // 3 ms later. Nothing here creates a handle, a tick or an asynchronous id, or
  // looks at the environment.
  const { Console } = console;
  const { Writable } = require('stream');
  const { Socket } = require('net');
  require('module');
  fs.promises;
  new Socket();
  const nowhere = new Writable({ write() {} });
  new Console({ stdout: nowhere, colorMode: false }).log('%s', 1, { a: ['x'] });

  fs.writeSync(fd, '\0');
  const [cwd, entry, ...variables] = read(read(4).readUInt32LE()).toString().split('\0');
  fs.closeSync(fd);
  process.chdir(cwd);

  // In their order, which programs see.
  const home = process.env.HOME;
  for (const name of Object.keys(process.env)) delete process.env[name];
  for (const variable of variables) {
    const at = variable.indexOf('=');
    process.env[variable.slice(0, at)] = variable.slice(at + 1);
  }
  // $HOME/.node_modules was put on the search path at the start.
  if (process.env.HOME !== home) Module._initPaths();

  // node has decided on the path of its entry, but not looked for the file. The
  // answer stands in the loader's cache just as often as node asks: once to
  // choose a loader, and once more when that is the one for CommonJS.
  const parked = process.argv[1];
  if (entry === parked) return;
  process.argv[1] = entry;
  const asModule = process.features.typescript ? /\.m[jt]s$/ : /\.mjs$/;
  let asks = asModule.test(entry) ? 1 : 2;
  Object.defineProperty(Module._pathCache, `${parked}\0`, {
    configurable: true,
    get() {
      asks -= 1;
      if (asks === 0) delete Module._pathCache[`${parked}\0`];
      Module._pathCache[`${entry}\0`] = entry;
      return entry;
    },
  });
})();
