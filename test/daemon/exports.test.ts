/** Exports as configured, through the real daemon: other processes as clients, workers that die, settings that are read again. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { check, documentOf } from '../helpers/openapi.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { clientFlags, CMD, EINVAL, ERR, option, type OptionReply, query, request, WireClient } from '../nbd/wire.ts';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { ExportSegments } from '../../src/daemon/served-volume.ts';
import { TestGroup } from './images.ts';
import { exportOf, statusOf, waitForStatus } from './status-of.ts';

const CONFIG = `
default_export = "vg/one"
[[exports]]
volumes = ["vg/one"]
max_connections = 2
[[exports]]
volumes = ["vg/two"]
exclusive_writer = true
[[exports]]
volumes = ["vg/three"]
exclusive_writer = true
other_clients = "refused"
[[exports]]
volumes = ["vg/four"]
minimum_block_size = 4096
preferred_block_size = 65536
maximum_block_size = 1048576
`;

for (const workers of ['0', '1']) {
  describe(`exports as configured, --workers ${workers}`, () => {
    let folder = '';
    let config = '';
    let daemon: RunningDaemon;
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'orion-lvm-exports-'));
      config = join(folder, 'lvm.toml');
      await writeFile(config, CONFIG);
      const volumes = ['one', 'two', 'three', 'four'].map((name, i) => ({
        name,
        extent: 2 * i,
        extents: 2,
        ...(name === 'one' ? { tags: ['db', 'fast'] } : {}),
      }));
      const group = await new TestGroup(join(folder, 'vg.img'), 'vg').write(volumes);
      daemon = await startDaemon([group.path], ['--config', config, '--workers', workers]);
    });
    after(async () => {
      assert.equal(await daemon.stop(), 0, daemon.log());
      await rm(folder, { recursive: true, force: true });
    });

    async function attached(name: string): Promise<WireClient> {
      const client = await WireClient.open(daemon.socket);
      await client.attach(name);
      return client;
    }

    /** The last reply to GO. */
    async function answerTo(name: string): Promise<OptionReply> {
      const client = await WireClient.open(daemon.socket);
      try {
        await client.take(18);
        client.send(clientFlags(), option(7, query(name)));
        for (;;) {
          const reply = await client.optionReply();
          if (reply.type !== 3) return reply;
        }
      } finally {
        client.close();
      }
    }

    /** What another process is shown of an export. */
    async function shown(name: string): Promise<Record<string, unknown>> {
      const json = JSON.parse(await mustRun('nbdinfo', ['--json', '--no-content', daemon.uri(name)])) as {
        exports: readonly Record<string, unknown>[];
      };
      return json.exports[0] ?? {};
    }

    test('the default export, with size, layout and tags', async () => {
      const info = await shown('');
      assert.equal(info['export-size'], 2 * 2 ** 20);
      assert.match(
        String(info['description']),
        /^2 MiB linear logical volume of volume group vg, id [\w-]{38}\/[\w-]{38}, tagged db, fast$/,
      );
    });

    test('max_connections: refused beyond, counted over reconnects', async () => {
      await waitForStatus(daemon, 'nobody', ({ exports }) => exports.every(({ clients }) => clients === 0));
      for (let round = 0; round < 5; round++) {
        const clients = [await attached('vg/one'), await attached('vg/one')];
        const refused = await answerTo('vg/one');
        assert.equal(refused.type, ERR.policy);
        assert.equal(refused.payload.toString(), 'vg/one has 2 connections, at most 2 are allowed');
        assert.equal((await exportOf(daemon, 'vg/one')).clients, 2);
        // One says goodbye, one just goes.
        clients[0]?.send(request({ type: CMD.disc }));
        await clients[0]?.rest();
        for (const client of clients) client.close();
        await waitForStatus(daemon, 'both to be gone', ({ exports }) => exports.every(({ clients: n }) => n === 0));
      }
    });

    test('exclusive_writer: another process reads, and may write when the writer has gone; status says who it is', async () => {
      const first = await attached('vg/two');
      const second = await attached('vg/two');
      assert.deepEqual((await exportOf(daemon, 'vg/two')).writers, [
        `user ${process.getuid?.()}, process ${process.pid}`,
      ]);
      const clientConfig = join(folder, 'client.toml');
      await writeFile(clientConfig, `control = "${join(dirname(daemon.socket), 'control.sock')}"\n`);
      const status = await mustRun(join(CHECKOUT, 'bin/orion-lvm'), ['status', '--config', clientConfig]);
      assert.match(status, new RegExp(`written by user \\d+, process ${process.pid}`));
      assert.equal((await shown('vg/two'))['is_read_only'], true);
      first.close();
      await waitForStatus(daemon, 'one to be gone', ({ exports }) => exports.some(({ clients }) => clients === 1));
      assert.equal((await shown('vg/two'))['is_read_only'], true, 'his other connection');
      second.close();
      await waitForStatus(daemon, 'both to be gone', ({ exports }) => exports.every(({ clients }) => clients === 0));
      assert.equal((await shown('vg/two'))['is_read_only'], false);
    });

    test('other_clients = refused', async () => {
      const writer = await attached('vg/three');
      const other = await runProgram('qemu-img', ['info', daemon.uri('vg/three')]);
      assert.notEqual(other.status, 0);
      assert.match(other.stderr, /open to one writer at a time, which is user/);
      writer.close();
      await waitFor('the writer to be gone', async () => {
        return (await runProgram('nbdinfo', ['--size', daemon.uri('vg/three')])).status === 0;
      });
    });

    test('x-orion:segment, and what its numbers stand for', async () => {
      const path = join(dirname(daemon.socket), 'control.sock');
      const told = (await new ControlClient(path).request('GET', '/v1/segments/vg/two')) as ExportSegments;
      check(await documentOf(), 'Segments', told);
      assert.deepEqual(told, {
        export: 'vg/two',
        segments: [{ start: 0, length: 2 ** 21, status: 1_001_001, type: 'linear', devices: [join(folder, 'vg.img')] }],
        physicalVolumes: [{ number: 1, path: join(folder, 'vg.img') }],
      });
      assert.deepEqual(
        (await mustRun('nbdinfo', ['--map=x-orion:segment', daemon.uri('vg/two')])).trim().split(/\s+/),
        ['0', String(2 ** 21), '1001001'],
      );
      await assert.rejects(new ControlClient(path).request('GET', '/v1/segments/vg/none'), /vg\/none is not served/);
    });

    test('block sizes are told, and hold', async () => {
      const info = await shown('vg/four');
      assert.deepEqual(
        [info['block_size_minimum'], info['block_size_preferred'], info['block_size_maximum']],
        [4096, 65_536, 1_048_576],
      );
      const client = await attached('vg/four');
      const tries: readonly (readonly [number, number, number])[] = [
        [0, 4096, 0],
        [512, 4096, EINVAL],
        [0, 512, EINVAL],
        [4096, 1_048_576, 0],
        [0, 1_052_672, EINVAL],
      ];
      for (const [offset, length, error] of tries) {
        client.send(request({ type: CMD.read, offset, length }));
        assert.equal((await client.reply(length)).error, error, `${length} at ${offset}`);
      }
      client.close();
    });

    if (workers !== '0') {
      test('a worker that dies takes its clients out of the count', async () => {
        const clients = [await attached('vg/one'), await attached('vg/one'), await attached('vg/three')];
        const [worker] = (await statusOf(daemon)).workers;
        process.kill(worker?.pid ?? 0, 'SIGKILL');
        for (const client of clients) await client.rest();
        await waitForStatus(
          daemon,
          'another worker',
          ({ workers: all }) => all[0]?.restarts === 1 && all[0].pid !== null,
        );
        for (const { clients: count, writers } of (await statusOf(daemon)).exports) {
          assert.deepEqual([count, writers], [0, undefined]);
        }
        const again = [await attached('vg/one'), await attached('vg/one')];
        assert.equal((await answerTo('vg/one')).type, ERR.policy);
        for (const client of [...clients, ...again]) client.close();
      });
    }

    test('a reload holds for those who come later', async () => {
      const client = await attached('vg/two');
      await writeFile(config, 'default_export = "vg/two"\n[[exports]]\nvolumes = ["*"]\nread_only = true\n');
      daemon.child.kill('SIGHUP');
      await waitFor('the reload', async () => (await shown('vg/one'))['is_read_only'] === true);
      client.send(request({ type: CMD.write, payload: Buffer.alloc(512) }));
      assert.equal((await client.reply()).error, 0, 'who was there before goes on');
      client.close();
      assert.equal((await shown(''))['is_read_only'], true);
    });
  });
}
