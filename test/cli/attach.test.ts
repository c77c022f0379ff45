/** attach and detach without a kernel that has nbd: what is refused, and how the notes and the kernel's files are read. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { attachDevice } from '../../src/cli/attach/kernel.ts';
import { usesOf } from '../../src/cli/attach/use.ts';
import { CommandError } from '../../src/cli/messages.ts';
import {
  type AttachSystem,
  attachedDevices,
  forgetDevice,
  kernelDevices,
  mapperName,
  noteDevice,
  notedDevices,
  resizeAttached,
} from '../../src/daemon/client/attached.ts';
import { type NbdChange, NetlinkError } from '../../src/native/netlink.ts';
import { run } from '../../src/cli/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';
import { Lines } from './fake-report.ts';

const SERVER = 'unix:/run/orion-lvm/nbd.sock';

async function done(): Promise<void> {
  // The kernel has nothing against it.
}
const KERNEL = { connect: done, reconfigure: done, disconnect: done };
const VOLUME = 'vg-uuid/lv-uuid';

/** Files of a kernel: paths below the folder, with their texts. */
async function fakeSystem(folder: string, files: Readonly<Record<string, string>>): Promise<AttachSystem> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), text);
  }
  const place = (name: string): string => join(folder, name);
  return { directory: place('notes'), sysBlock: place('sys'), dev: place('dev'), proc: place('proc'), kernel: KERNEL };
}

describe('notes on attached devices', () => {
  test('come back as they were written, by number, and only connected ones are attached', async () => {
    await withTemporaryFolder(async (folder) => {
      const system = await fakeSystem(folder, { 'sys/nbd2/pid': '17\n' });
      const facts = { exportName: 'my-vg/lv', server: SERVER, connections: 3, volume: VOLUME };
      const notes = ['nbd10', 'nbd2'].map((kernelName) => ({ kernelName, ...facts }));
      for (const note of notes) await noteDevice(note, system);
      assert.deepEqual(await notedDevices(system), notes.toReversed());
      assert.deepEqual(await attachedDevices(system), notes.slice(1));
      assert.equal(
        await readFile(join(folder, 'notes/nbd2'), 'utf8'),
        `ORION_LVM_EXPORT=my-vg/lv\nORION_LVM_MAPPER=my--vg-lv\nORION_LVM_SERVER=${SERVER}\n` +
          `ORION_LVM_CONNECTIONS=3\nORION_LVM_VOLUME=${VOLUME}\n`,
      );
      await forgetDevice('nbd10', system);
      assert.deepEqual(await readdir(join(folder, 'notes')), ['nbd2'], 'and no parts are left');
    });
  });

  test('what is no note is passed over', async () => {
    await withTemporaryFolder(async (folder) => {
      const system = await fakeSystem(folder, { 'notes/nbd0': 'nothing\n=\n', 'notes/.lock': '', 'notes/sda': 'A=1' });
      assert.deepEqual(await notedDevices(system), []);
      assert.deepEqual(await kernelDevices(system), []);
    });
  });

  test('names are mapped as device-mapper does', () => {
    assert.equal(mapperName('a-b/c--d.e'), 'a--b-c----d.e');
  });
});

test("only this server's devices get a volume's new size, and only where it differs", async () => {
  await withTemporaryFolder(async (folder) => {
    const sectors = { nbd0: '2048', nbd1: '4096', nbd2: '2048', nbd3: '2048' };
    const files = Object.entries(sectors).map(([name, size]) => ({
      [`sys/${name}/size`]: `${size}\n`,
      [`dev/${name}`]: '',
      ...(name === 'nbd3' ? {} : { [`sys/${name}/pid`]: '1\n' }),
    }));
    const set: NbdChange[] = [];
    const system = {
      ...(await fakeSystem(folder, Object.assign({ 'sys/nbd0/backend': `${VOLUME}\n` }, ...files))),
      kernel: {
        ...KERNEL,
        reconfigure: (change: NbdChange): Promise<void> => {
          set.push(change);
          return set.length > 1 ? Promise.reject(new NetlinkError(22, 'no')) : Promise.resolve();
        },
      },
    };
    const note = (kernelName: string, server: string): Promise<void> =>
      noteDevice({ kernelName, exportName: 'vg/lv', server, connections: 1, volume: VOLUME }, system);
    await note('nbd0', SERVER);
    await note('nbd1', SERVER);
    await note('nbd2', 'unix:/other.sock');
    await note('nbd3', SERVER);
    const sizes = (name: string): { sizeOf: (exportName: string) => number | null; servers: string[] } => ({
      sizeOf: (exportName) => (exportName === name ? 2 ** 21 : null),
      servers: [SERVER, 'tcp:h:1'],
    });
    const resized = { kernelName: 'nbd0', exportName: 'vg/lv', sizeBytes: 2 ** 21 };
    assert.deepEqual(await resizeAttached(sizes('vg/lv'), system), [{ ...resized, problem: null }]);
    assert.deepEqual(set, [{ index: 0, backend: VOLUME, sizeBytes: 2 ** 21 }]);
    assert.deepEqual(await resizeAttached(sizes('vg/lv'), system), [{ ...resized, problem: 'invalid argument (no)' }]);
    assert.deepEqual(await resizeAttached(sizes('vg/other'), system), []);
  });
});

test('a device that can not be connected is noted as it was before; one that was connected after all stays noted', async () => {
  await withTemporaryFolder(async (folder) => {
    const system = await fakeSystem(folder, { 'sys/nbd0/backend': `${VOLUME}\n` });
    const server = `unix:${join(folder, 'nobody.sock')}`;
    const device = { kernelName: 'nbd0', exportName: 'vg/lv', server, connections: 1, volume: VOLUME };
    const attach = (former: typeof device | null): Promise<void> =>
      attachDevice(
        device,
        { former, sizeBytes: 512, timeoutSeconds: null, reconnectSeconds: 0, readOnly: false, blockSize: 512 },
        system,
      );
    await assert.rejects(attach(null), /nbd0: the daemon gives no connection/);
    assert.deepEqual(await notedDevices(system), []);
    const former = { ...device, exportName: 'vg/other', volume: 'vg-uuid/other' };
    await assert.rejects(attach(former), CommandError);
    assert.deepEqual(await notedDevices(system), [former]);
    await writeFile(join(folder, 'sys/nbd0/pid'), '17\n');
    await assert.rejects(attach(former), CommandError);
    assert.deepEqual(await notedDevices(system), [device]);
  });
});

test('every use of a device keeps it attached', async () => {
  await withTemporaryFolder(async (folder) => {
    const system = await fakeSystem(folder, {
      'sys/nbd0/dev': '43:0\n',
      'sys/nbd0/nbd0p1/dev': '43:1\n',
      'sys/nbd0/holders/dm-3/x': '',
      'sys/nbd1/dev': '43:32\n',
      'proc/self/mountinfo':
        '21 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 21 43:1 / /mnt/my\\040data rw - ext4 /dev/nbd0p1 rw\n',
      'proc/swaps': `Filename Type Size Used Priority\n${join(folder, 'dev/nbd0')} partition 1 0 -2\n`,
    });
    assert.deepEqual(await usesOf('nbd0', system), [
      'is mounted on /mnt/my data',
      `is used as swap space (${join(folder, 'dev/nbd0')})`,
      'is part of dm-3',
    ]);
    assert.deepEqual(await usesOf('nbd1', system), []);
  });
});

describe('refused', () => {
  const cases: readonly (readonly [string, readonly string[], number, number, RegExp])[] = [
    ['nothing to attach', ['attach'], 0, 3, /Please provide a logical volume as VG\/LV/],
    ['a VG', ['attach', 'vg0'], 0, 3, /"vg0" is no logical volume/],
    ['a wrong device', ['attach', 'vg0/lv', '/dev/sda'], 0, 3, /"\/dev\/sda" is no device \/dev\/nbdN/],
    ['too much', ['attach', 'vg0/lv', 'nbd0', 'x'], 0, 3, /Too many arguments: x/],
    ['too many connections', ['attach', '-C', '17', 'vg0/lv'], 0, 3, /17/],
    ['no time', ['attach', '--reconnect', 'x', 'vg0/lv'], 0, 3, /x/],
    ['anybody but root', ['attach', 'vg0/lv'], 1000, 5, /attach needs root/],
    ['anybody but root', ['detach', 'vg0/lv'], 1000, 5, /detach needs root/],
    ['nothing to detach', ['detach'], 0, 3, /Please provide/],
    ['where no daemon is', ['attach', 'vg0/lv'], 0, 5, /No orion-lvmd is running: there is no socket \/nonexistent/],
  ];
  for (const [name, argv, uid, code, pattern] of cases) {
    test(`${name}: ${argv.join(' ')}`, async () => {
      const lines = new Lines();
      const env = { ORION_LVM_CONTROL: '/nonexistent/control.sock', LVM_SYSTEM_DIR: '' };
      const now = 0;
      const result = await run(argv, lines, { env, cwd: '/', uid, now, terminal: NOBODY });
      assert.equal(result, code, lines.err.join('\n'));
      assert.match(lines.err.join('\n'), pattern);
    });
  }
});
