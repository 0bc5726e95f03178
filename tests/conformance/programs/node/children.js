// child_process.
const { exec, execSync, spawn, spawnSync, fork } = require('child_process');
if (process.argv[2] === 'child') {
  console.log('forked', require('fs').readFileSync('/data/hello.txt', 'utf8'));
  process.exit(4);
}
console.log(execSync('cat /data/hello.txt | wc -c').toString());
console.log(spawnSync('cat', ['/data/hello.txt']).stdout.toString(), spawnSync('sh', ['-c', 'exit 7']).status);
console.log(spawnSync('no-such-program').error.code, spawnSync('sh', ['-c', 'kill -9 $$']).signal);
console.log(spawnSync('cat', ['hello.txt'], { cwd: '/data' }).stdout.toString());
(async () => {
  const run = (number) => new Promise((resolve) => exec(`head -1 /data/hundred/${String(number).padStart(3, '0')}.txt`, (error, stdout) => resolve(stdout.trim())));
  console.log((await Promise.all(Array.from({ length: 16 }, (_, n) => run(n)))).join(','));
  const child = fork(__filename, ['child']);
  console.log('fork', await new Promise((resolve) => child.on('exit', resolve)));
  const cat = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
  cat.stdin.end(require('fs').readFileSync('/data/hello.txt'));
  for await (const data of cat.stdout) console.log('cat', data.toString());
})();
