// The runtimes, each with a first program.

const PROGRAMS = {
  python: `import platform, time

print("Python", platform.python_version(), "in a sandbox of its own")
for n in range(1, 6):
    print(f"2 ** {n * 20:>3} = {2 ** (n * 20):,}")
    time.sleep(0.2)
`,
  node: `console.log(\`Node \${process.version} in a sandbox of its own\`);

for (let n = 1; n <= 5; n++) {
  console.log(\`\${n}! = \${Array.from({ length: n }, (_, i) => i + 1).reduce((a, b) => a * b)}\`);
  await new Promise((next) => setTimeout(next, 200));
}
`,
  bun: `const words = "every run has a sandbox that served nobody before".split(" ");

for (const word of words) {
  await Bun.write(Bun.stdout, \`\${word} \`);
  await Bun.sleep(100);
}
console.log(\`\\nBun \${Bun.version}\`);
`,
  deno: `interface Planet { name: string; moons: number }

const planets: Planet[] = [
  { name: "Mars", moons: 2 },
  { name: "Earth", moons: 1 },
  { name: "Venus", moons: 0 },
];
console.table(planets.toSorted((a, b) => a.moons - b.moons));
console.error("Deno", Deno.version.deno);
`,
  bash: `echo "I am uid $(id -u) on $(uname -s)"
echo "what I may write to:"
df -h /sandbox /tmp | tail -n 2

echo "and the network:" >&2
ls /sys/class/net 2>/dev/null || echo "none" >&2
`,
};
