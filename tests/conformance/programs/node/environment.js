// process.env, and a child's.
const { execFileSync } = require('child_process');
for (const name of ['SHOP_REGION', 'SHOP_GREETING', 'PORT', 'MISSING', 'LD_PRELOAD'])
  console.log(name, process.env[name]);
console.log(Object.keys(process.env).filter((name) => name.startsWith('MIRROR_')));
console.log(execFileSync('sh', ['-c', 'echo $SHOP_REGION; cat /data/hello.txt']).toString());
console.log(execFileSync('/bin/sh', ['-c', 'echo ${SHOP_REGION-unset}; cat /data/hello.txt'], { env: {} }).toString());
