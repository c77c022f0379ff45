/** Tunnels by themselves, between two sockets: every byte in order, both ends, and back-pressure; so memory is not used again too early. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { Socket } from 'node:net';
import { describe, test } from 'node:test';
import { Tunnel } from '../../src/daemon/tls/tunnel.ts';
import { socketPair } from '../../src/native/sockets.ts';
import { waitFor } from '../helpers/daemon.ts';

interface Stand {
  readonly client: Socket;
  readonly worker: Socket;
  readonly tunnel: Tunnel;
  readonly closed: Promise<void>;
}

function pair(): [Socket, Socket] {
  const [one, other] = socketPair().map(
    (fd) => new Socket({ fd, allowHalfOpen: true, readable: true, writable: true }),
  );
  assert(one !== undefined && other !== undefined);
  return [one, other];
}

function open(drainTimeoutMs = 600_000): Stand {
  const [client, outer] = pair();
  const [worker, inner] = pair();
  const { promise, resolve } = Promise.withResolvers<void>();
  return { client, worker, tunnel: new Tunnel(outer, inner, { drainTimeoutMs, onClosed: resolve }), closed: promise };
}

/** Sends pieces of all sizes, then the end; gives their digest. */
function sendAll(socket: Socket, lengths: readonly number[]): string {
  const hash = createHash('sha256');
  for (const length of lengths) {
    const bytes = randomBytes(length);
    hash.update(bytes);
    socket.write(bytes);
  }
  socket.end();
  return hash.digest('hex');
}

async function receiveAll(socket: Socket): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of socket) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

const LENGTHS: readonly number[] = [1, 65_536, 262_144, 262_145, 3, 1_000_000, 16_384, 28, 28, 524_288, 700_001, 64];

describe('a tunnel', { timeout: 60_000 }, () => {
  test('passes every byte in order, both ways at once, and both ends', async () => {
    const stands = Array.from({ length: 4 }, () => open());
    await Promise.all(
      stands.map(async ({ client, worker, closed }) => {
        const received = [receiveAll(worker), receiveAll(client)];
        assert.deepEqual(
          [sendAll(client, LENGTHS), sendAll(worker, LENGTHS.toReversed())],
          await Promise.all(received),
        );
        await closed;
      }),
    );
  });

  for (const [sender, taker] of [
    ['client', 'worker'],
    ['worker', 'client'],
  ] as const) {
    test(`the ${sender} waits for the ${taker}, and loses nothing`, async () => {
      const stand = open();
      const from = stand[sender];
      const to = stand[taker].pause();
      // Far more than is held on the way: sockets' buffers, and two pieces and a turn of the tunnel.
      const length = 32 * 2 ** 20;
      const bytes = randomBytes(length);
      from.write(bytes);
      let left = -1;
      // It goes on until nothing moves any more: several looks that saw the same.
      let same = 0;
      await waitFor('it to stop', () => {
        same = left === from.writableLength ? same + 1 : 0;
        left = from.writableLength;
        return same > 10;
      });
      assert.ok(from.writableLength > 0, 'all of it was taken');
      assert.ok(stand[sender].bytesWritten - stand[taker].bytesRead > 0);
      from.end();
      const hash = createHash('sha256').update(bytes).digest('hex');
      assert.equal(await receiveAll(to), hash);
      stand[taker].end();
      stand[sender].resume();
      await stand.closed;
    });
  }

  test('whose worker has let the client go ends, also where he takes nothing', async () => {
    const { client, worker, tunnel, closed } = open(1);
    client.pause();
    worker.on('error', () => undefined);
    worker.write(randomBytes(8 * 2 ** 20));
    await waitFor('the tunnel to be full', () => worker.writableLength > 0 && worker.writableNeedDrain);
    tunnel.expire();
    await closed;
    client.destroy();
    worker.destroy();
  });
});
