// dns.lookup, which is getaddrinfo.
const dns = require('dns');
(async () => {
  for (const name of ['inventory', 'stock', 'audit', 'storefront', 'localhost', 'no-such-name', 'broken', '10.96.14.5'])
    for (const options of [{}, { all: true }, { family: 4 }, { family: 6, all: true }])
      await dns.promises.lookup(name, { verbatim: true, ...options }).then(
        (found) => console.log(name, options, found),
        (error) => console.log(name, options, error.code, error.errno, error.syscall),
      );
  console.log(await dns.promises.lookupService('10.96.14.5', 80));
})();
