// net and http as clients.
const http = require('http');
const net = require('net');

const get = (url) =>
  new Promise((resolve) => {
    http.get(url, (response) => {
      let body = '';
      response.on('data', (data) => (body += data));
      response.on('end', () => resolve(`${response.statusCode} ${body.trim()}`));
    }).on('error', (error) => resolve(`${error.code} ${error.syscall} ${error.address} ${error.port}`));
  });
const echo = (options, text) =>
  new Promise((resolve) => {
    let answer = '';
    const socket = net.connect(options, () => {
      const { remoteAddress, remotePort, remoteFamily, localAddress, localPort } = socket;
      answer = `${remoteAddress} ${remotePort} ${remoteFamily} ${localAddress} ${localPort > 0} `;
      socket.end(text);
    });
    socket.on('data', (data) => (answer += data));
    socket.on('end', () => resolve(answer));
    socket.on('error', (error) => resolve(`${error.code} ${error.syscall}`));
  });

(async () => {
  console.log(await get(`http://${process.env.SCENE_INVENTORY}/items/teapot`));
  console.log(await get('http://storefront/items/by-name'));
  console.log(await get({ host: 'inventory', family: 4, path: '/nothing' }));
  console.log(await get(`http://${process.env.SCENE_INVENTORY}:7009/`));
  console.log(await echo({ host: process.env.SCENE_INVENTORY, port: 7 }, 'hello'));
  console.log(await echo({ host: 'fd00:10:96::e05', port: 7 }, 'six'));
  console.log(await echo({ host: process.env.SCENE_INVENTORY, port: 7009 }, 'nobody'));
  console.log(await echo({ host: '10.97.1.1', port: 7 }, 'unreachable'));
  console.log(await echo({ host: process.env.SCENE_INVENTORY, port: 7 }, 'x'.repeat(200000)).then((answer) => answer.length));
  const many = await Promise.all(Array.from({ length: 40 }, (_, n) => echo({ host: process.env.SCENE_INVENTORY, port: 7 }, `number ${n}`)));
  console.log(many.map((answer) => answer.split('true ')[1]).join(','));
})();
