// fs: synchronous, by callbacks, by promises, streams.
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');

function attempt(what, call) {
  try {
    console.log(what, call());
  } catch (error) {
    console.log(what, error.code, error.syscall, error.path);
  }
}

const digest = (data) => crypto.createHash('sha256').update(data).digest('hex');
console.log(fs.readFileSync('/data/hello.txt', 'utf8'), JSON.parse(fs.readFileSync('/app/config/features.json')));
console.log(digest(fs.readFileSync('/data/large.bin')));
const facts = fs.statSync('/data/hello.txt', { bigint: true });
console.log(facts.size, facts.mode, facts.ino, facts.nlink, facts.uid, facts.mtimeNs, facts.isFile(), facts.dev);
console.log(fs.lstatSync('/data/links/relative').isSymbolicLink(), fs.statSync('/data').isDirectory());
console.log(fs.statSync('/data/missing', { throwIfNoEntry: false }), fs.existsSync('/data/missing'), fs.existsSync('/data'));
console.log(fs.readdirSync('/data').sort(), fs.readdirSync('/data/hundred').length);
for (const entry of fs.readdirSync('/data', { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1)))
  console.log(entry.name, entry.isDirectory(), entry.isFile(), entry.isFIFO(), entry.isSocket());
console.log(fs.readlinkSync('/data/links/relative'), fs.realpathSync('/data/links/to-link'));
console.log(fs.realpathSync.native('/data/links/over-root'));
const descriptor = fs.openSync('/data/kilobyte.bin', 'r');
const buffer = Buffer.alloc(16);
console.log(fs.readSync(descriptor, buffer, 0, 16, 1000), buffer, fs.fstatSync(descriptor).size);
fs.closeSync(descriptor);
attempt('missing', () => fs.readFileSync('/data/missing'));
attempt('forbidden', () => fs.readFileSync('/data/permissions/file-0000'));
attempt('directory', () => fs.readFileSync('/data'));
attempt('loop', () => fs.statSync('/data/links/loop'));
attempt('not a directory', () => fs.readdirSync('/data/hello.txt'));
attempt('access', () => fs.accessSync('/data/hello.txt', fs.constants.R_OK));
attempt('no access', () => fs.accessSync('/data/hello.txt', fs.constants.X_OK));
attempt('statfs', () => (fs.statfsSync ? fs.statfsSync('/data').type : 'old'));

(async () => {
  console.log((await fs.promises.readFile('/data/hello.txt')).length, (await fs.promises.stat('/data/large.bin')).size);
  console.log((await fs.promises.readdir('/data/links')).sort());
  await fs.promises.readFile('/data/missing').catch((error) => console.log('promise', error.code, error.syscall));
  const handle = await fs.promises.open('/data/lines.csv');
  let lines = 0;
  for await (const line of require('readline').createInterface({ input: handle.createReadStream() })) lines += line.length;
  console.log('characters', lines);
  const files = Array.from({ length: 50 }, (_, number) => `/data/hundred/${String(number).padStart(3, '0')}.txt`);
  const sizes = await Promise.all(files.map(async (file) => (await fs.promises.readFile(file)).length));
  console.log(sizes.join(' '));
  const hash = crypto.createHash('sha256');
  for await (const chunk of fs.createReadStream('/data/large.bin', { start: 5, end: 2500000 })) hash.update(chunk);
  console.log('stream', hash.digest('hex'));
  const names = [];
  for await (const entry of await fs.promises.opendir('/data/deep')) names.push(entry.name);
  console.log(names);
  process.chdir('/data/hundred');
  console.log(process.cwd(), fs.readFileSync('042.txt', 'utf8').slice(0, 3), path.resolve('../hello.txt'));
})();
