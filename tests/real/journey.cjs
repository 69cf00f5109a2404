// A life by upstream's TypeScript client, unmodified: push an image, make an instance of it, files, logs, stop, delete.
// argv: the server's URL, a key, a `docker save` archive, the image's name, a folder for files. Its last line is JSON.
'use strict';
const assert = require('assert');
const fs = require('fs');
const http = require('http');
const path = require('path');

const [url, apiKey, archive, image, folder] = process.argv.slice(2);
process.env.DOCKER_HOST = `unix://${path.join(folder, 'docker.sock')}`;
const Hypeman = require('@onkernel/hypeman').default;
const lib = { ...require('@onkernel/hypeman/lib/push'), ...require('@onkernel/hypeman/lib/cp') };

// What the client asks of a Docker daemon is one archive.
function daemon() {
  const server = http.createServer((request, response) => {
    if (request.url !== '/images/app:1/get') return response.writeHead(404).end();
    fs.createReadStream(archive).pipe(response);
  });
  return new Promise((resolve) => server.listen(path.join(folder, 'docker.sock'), () => resolve(server)));
}

async function ready(client) {
  for (;;) {
    const found = await client.images.get(image);
    assert.notStrictEqual(found.status, 'failed', JSON.stringify(found));
    if (found.status === 'ready') return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function until(client, id, state) {
  for (let turn = 0; turn < 10; turn++) {
    if (!(await client.instances.wait(id, { state, timeout: '30s' }, { timeout: 60000 })).timed_out) return;
  }
  assert.fail(`${id} is never ${state}`);
}

async function said(client, id, word) {
  for (let turn = 0; turn < 300; turn++) {
    for await (const line of await client.instances.logs(id, { tail: 100 })) if (line.includes(word)) return line;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`${word} is not in the logs`);
}

async function live(client) {
  await lib.push(lib.extractPushConfig(client), 'app:1', image);
  const made = await ready(client);
  const instance = await client.instances.create({ name: path.basename(folder), image, size: '256MB', vcpus: 1 });
  const id = instance.id;
  try {
    await until(client, id, 'Running');
    const there = { baseURL: url, apiKey };
    const source = path.join(folder, 'out.bin');
    const back = path.join(folder, 'back');
    fs.writeFileSync(source, Buffer.from(Array.from({ length: 300000 }, (_, n) => n % 251)));
    await lib.cpToInstance(there, { instanceId: id, srcPath: source, dstPath: '/copied.bin' });
    await lib.cpFromInstance(there, { instanceId: id, srcPath: '/copied.bin', dstPath: back });
    assert(fs.readFileSync(source).equals(fs.readFileSync(path.join(back, 'copied.bin'))));
    await lib.cpFromInstance(there, { instanceId: id, srcPath: '/hello', dstPath: back });
    const line = await said(client, id, 'pushed and alive');
    const stopped = await client.instances.stop(id, { timeout: 120000 });
    return { digest: made.digest, line, state: stopped.state, hello: fs.readFileSync(path.join(back, 'hello'), 'utf8') };
  } finally {
    await client.instances.delete(id);
    await assert.rejects(client.instances.get(id), { status: 404 });
    await client.images.delete(image);
  }
}

async function main() {
  const docker = await daemon();
  try {
    const client = new Hypeman({ apiKey, baseURL: url, maxRetries: 0 });
    console.log(JSON.stringify(await live(client)));
  } finally {
    docker.close();
    docker.closeAllConnections();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
