// dns.lookup, which is getaddrinfo.
const dns = require('dns');
(async () => {
  for (const name of ['inventory', 'stock', 'audit', 'storefront', 'localhost', 'no-such-name', 'broken', process.env.SCENE_INVENTORY])
    for (const options of [{}, { all: true }, { family: 4 }, { family: 6, all: true }])
      await dns.promises.lookup(name, { verbatim: true, ...options }).then(
        (found) => console.log(name, options, found),
        (error) => console.log(name, options, error.code, error.errno, error.syscall),
      );
  console.log(await dns.promises.lookupService(process.env.SCENE_INVENTORY, 80));
})();
