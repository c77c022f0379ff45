/**
 * Current releases of libnbd's and QEMU's tools, which speak extended headers, against the daemon: what they negotiate, maps of volumes
 * beyond 4 GiB, copies that leave holes out, and comparisons. (clients.test.ts has the releases that Debian 12 installs.)
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { currentQemu, libnbdTree } from '../helpers/nbd-programs.ts';
import { mustRun } from '../helpers/run.ts';
import { makeGroup } from './small-group.ts';

const GIB = 2 ** 30;
const MIB = 2 ** 20;

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

describe('current clients', () => {
  let folder = '';
  let libnbd = '';
  let qemu = '';
  let daemon: RunningDaemon;

  const nbdinfo = (...args: readonly string[]): Promise<string> => mustRun(join(libnbd, 'info/nbdinfo'), args);
  const nbdcopy = (...args: readonly string[]): Promise<string> => mustRun(join(libnbd, 'copy/nbdcopy'), args);
  const qemuImg = (...args: readonly string[]): Promise<string> => mustRun(join(qemu, 'qemu-img'), args);
  const qemuIo = (lv: string, ...commands: readonly string[]): Promise<string> =>
    mustRun(join(qemu, 'qemu-io'), [...commands.flatMap((command) => ['-c', command]), '-f', 'raw', daemon.uri(lv)]);

  before(async () => {
    libnbd = await libnbdTree();
    qemu = await currentQemu();
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-current-'));
    const image = await makeGroup(folder, [
      { name: 'huge', size: '6144m', options: ['-Wn', '-Zn'] },
      { name: 'a', size: '32m', options: ['-Wn', '-Zn'] },
      { name: 'b', size: '32m', options: ['-Wn', '-Zn'] },
    ]);
    daemon = await startDaemon([image]);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  test('nbdinfo negotiates extended headers', async () => {
    assert.match(await nbdinfo(daemon.uri('vg/a')), /extended packets/);
    for (const can of ['extended-headers', 'structured-reply', 'df', 'fast-zero'])
      await nbdinfo('--can', can, daemon.uri('vg/a'));
  });

  test('nbdinfo maps more than 4 GiB in one extent', async () => {
    await qemuIo('vg/huge', 'write -P 1 0 64k');
    const map = JSON.parse(await nbdinfo('--map', '--json', daemon.uri('vg/huge'))) as Extent[];
    assert.deepEqual(
      map.map(({ offset, length, type }) => [offset, length, type]),
      [
        [0, 65_536, 0],
        [65_536, 6 * GIB - 65_536, 3],
      ],
    );
    const segments = JSON.parse(await nbdinfo('--map=x-orion:segment', '--json', daemon.uri('vg/huge'))) as Extent[];
    assert.deepEqual(
      segments.map(({ offset, length }) => [offset, length]),
      [[0, 6 * GIB]],
    );
  });

  test('one request zeroes more than 4 GiB', async () => {
    await qemuIo('vg/huge', 'write -P 1 5G 64k', 'write -z -u -n 0 6G', 'read -P 0 5G 64k');
  });

  test('nbdcopy copies what is allocated, there and back', async () => {
    const data = Buffer.concat([
      randomBytes(3 * MIB),
      Buffer.alloc(13 * MIB),
      randomBytes(MIB),
      Buffer.alloc(15 * MIB),
    ]);
    const [source, copy] = [join(folder, 'source'), join(folder, 'copy')];
    await writeFile(source, data);
    await nbdcopy(source, daemon.uri('vg/a'));
    await nbdcopy('--allocated', daemon.uri('vg/a'), daemon.uri('vg/b'));
    await nbdcopy(daemon.uri('vg/b'), copy);
    assert.ok(data.equals(await readFile(copy)));
    assert.ok((await stat(copy)).blocks * 512 < 8 * MIB, 'the holes were copied');
  });

  test('qemu-img maps, converts, compares and loads', async () => {
    await qemuIo('vg/a', 'write -z -u 0 32M', 'write -P 0x5a 1M 2M', 'write -P 0xa5 20M 1M');
    const map = JSON.parse(await qemuImg('map', '--output=json', '-f', 'raw', daemon.uri('vg/a'))) as {
      start: number;
      length: number;
      data: boolean;
    }[];
    const allocated = map.filter(({ data }) => data).map(({ start, length }) => [start, length]);
    assert.deepEqual(allocated, [
      [MIB, 2 * MIB],
      [20 * MIB, MIB],
    ]);
    const qcow = join(folder, 'a.qcow2');
    await qemuImg('convert', '-f', 'raw', '-O', 'qcow2', daemon.uri('vg/a'), qcow);
    await qemuImg('convert', '-n', '-f', 'qcow2', '-O', 'raw', qcow, daemon.uri('vg/b'));
    await qemuImg('compare', '-f', 'raw', '-F', 'raw', daemon.uri('vg/a'), daemon.uri('vg/b'));
    await qemuImg('compare', '-f', 'qcow2', '-F', 'raw', qcow, daemon.uri('vg/b'));
    await qemuImg('bench', '-c', '2000', '-d', '32', '-s', '4096', '-w', '-f', 'raw', daemon.uri('vg/b'));
    await qemuImg('bench', '-c', '2000', '-d', '32', '-s', '4096', '-f', 'raw', daemon.uri('vg/b'));
  });
});
