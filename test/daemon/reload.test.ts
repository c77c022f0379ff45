/** What the daemon reads again while it serves: a file that is gone, settings that are not in force before the devices were read. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import { accepts, type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, pidOf, stopLast } from '../helpers/hand-over.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';
import { clientFlags, ERR, option, query, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';

/** NBD_REP_ACK */
const ACK = 1;
const DATA = { name: 'data', extent: 0, extents: 2 };

/** In its directory, with nothing on its command line but sockets. */
async function startIn(folder: string): Promise<Pick<RunningDaemon, 'socket' | 'child' | 'log'>> {
  const socket = join(folder, 'nbd.sock');
  const args = ['--listen', `unix:${socket}`, '--control', join(folder, 'control.sock')];
  const { ORION_LVM_CONFIG: _, ...env } = process.env;
  const child = spawn(join(CHECKOUT, 'bin/orion-lvmd'), args, {
    cwd: folder,
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let output = '';
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  await waitFor('the daemon to listen', async () => {
    assert.equal(child.exitCode, null, output);
    return accepts(socket);
  });
  return { socket, child, log: () => output };
}

/** Type of the last reply to GO. */
async function answerTo(socket: string, name: string): Promise<number> {
  const client = await WireClient.open(socket);
  await client.take(18);
  client.send(clientFlags(), option(7, query(name)));
  for (;;) {
    const { type } = await client.optionReply();
    if (type === 3) continue;
    client.close();
    return type;
  }
}

describe('a configuration file that was found by searching', () => {
  test('is not taken for none when it is gone, by a reload or by the process that follows', async () => {
    await withTemporaryFolder(async (folder) => {
      const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([DATA]);
      const config = join(folder, 'lvm.toml');
      const rules = '[[access.exports]]\nvolumes = ["*"]\nallow = ["user:54321"]\n';
      await writeFile(config, `devices = [${JSON.stringify(path)}]\nworkers = 1\n${rules}`);
      const daemon = await startIn(folder);
      const exited = once(daemon.child, 'exit');
      try {
        assert.equal(await answerTo(daemon.socket, 'vg/data'), ERR.policy);
        await rename(config, `${config}.away`);
        daemon.child.kill('SIGHUP');
        await waitFor('the refusal', () => /cannot read the config file.*reload refused/.test(daemon.log()));
        assert.equal(await answerTo(daemon.socket, 'vg/data'), ERR.policy);
        const before = await pidOf(daemon);
        daemon.child.kill('SIGUSR2');
        await waitFor('the hand-over to be given up', () => daemon.log().includes('everything stays here'));
        assert.equal(await pidOf(daemon), before);
        await rename(`${config}.away`, config);
        await handOver(daemon);
        assert.equal(await answerTo(daemon.socket, 'vg/data'), ERR.policy);
      } finally {
        await stopLast(daemon);
        await exited;
      }
    });
  });
});

test('who may do what is in force at once, though a device hangs; and who asks for a rescan hears its end', async () => {
  await withTemporaryFolder(async (folder) => {
    const slow = await new TestGroup(join(folder, 'slow.img'), 'slow').write([DATA]);
    const quick = await new TestGroup(join(folder, 'quick.img'), 'quick').write([DATA]);
    const config = join(folder, 'lvm.toml');
    await writeFile(config, '');
    await using file = await SlowFile.mount(slow.path, folder);
    const daemon = await startDaemon([file.path, quick.path], ['--config', config, '--workers', '1']);
    try {
      assert.equal(await answerTo(daemon.socket, 'quick/data'), ACK);
      file.hang();
      const rescan = new ControlClient(join(dirname(daemon.socket), 'control.sock')).request('POST', '/v1/rescan');
      const rescanned = Promise.allSettled([rescan]);
      await writeFile(config, '[[access.exports]]\nvolumes = ["quick"]\nallow = ["user:54321"]\n');
      daemon.child.kill('SIGHUP');
      await waitFor('the rule', async () => (await answerTo(daemon.socket, 'quick/data')) === ERR.policy);
      assert.ok(!daemon.log().includes('reloaded: '), 'the rule came with the end of the scan');
      const [outcome] = await rescanned;
      assert.equal(outcome?.status, 'fulfilled', outcome?.status === 'rejected' ? String(outcome.reason) : '');
      await waitFor('the end of the reload', () => /reloaded: /.test(daemon.log()));
    } finally {
      file.goOn();
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
});
