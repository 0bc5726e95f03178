// A server, and the dialer's view of it.
const net = require('net');
const dial = (port, source) =>
  new Promise((resolve) => {
    let answer = '';
    const dialer = net.connect(7001, process.env.SCENE_STOREFRONT, () => dialer.write(`${process.env.SCENE_POD} ${port} ${source}\n`));
    dialer.on('data', (data) => (answer += data));
    dialer.on('end', () => resolve(answer));
  });
const serve = (socket) =>
  socket.once('data', (data) =>
    socket.end(`node heard ${data.toString().trim()} from ${socket.remoteAddress} ${socket.remotePort} ${socket.remoteFamily}\n`),
  );
const listen = (...where) => new Promise((resolve) => { const server = net.createServer(serve); server.listen(...where, () => resolve(server)); });

(async () => {
  const first = await listen(9030, '0.0.0.0');
  const second = await listen(9031);
  console.log(first.address(), second.address());
  console.log(await dial(9030, 20301), await dial(9031, 20302));
  console.log(await Promise.all(Array.from({ length: 10 }, (_, n) => dial(9030 + (n % 2), 20310 + n))));
  first.close();
  console.log(await dial(9031, 20330));
  second.close();
  console.log(await dial(9031, 20331));
})();
