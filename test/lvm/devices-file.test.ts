/** Which devices LVM2 would use: filters, names, and the devices file. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as fc from 'fast-check';
import {
  type DeviceEntry,
  DevicesFile,
  entryMatches,
  findEntry,
  lineOfEntry,
  parseDevicesFile,
  withDevice,
} from '../../src/lvm/devices-file.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { DeviceFilter } from '../../src/lvm/filter.ts';
import { findHostDevices, type HostDevice } from '../../src/lvm/host-devices.ts';
import { Settings } from '../../src/lvm/settings.ts';
import { parseConfig } from '../../src/ondisk/config-parser.ts';

let folder = '';
let loop = '';
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'orion-lvm-devices-'));
  writeFileSync(join(folder, 'image'), Buffer.alloc(4 << 20));
  loop = execFileSync('losetup', ['-f', '--show', join(folder, 'image')], { encoding: 'utf8' }).trim();
});
after(() => {
  execFileSync('losetup', ['-d', loop]);
  rmSync(folder, { recursive: true, force: true });
});

const nameOf = (patterns: readonly string[], ...names: readonly string[]): string | null =>
  new DeviceFilter(patterns).nameOf(names);

describe('filters', () => {
  test('the first pattern that matches a name decides', () => {
    assert.equal(nameOf(['a|loop|', 'r|.*|'], '/dev/loop1'), '/dev/loop1');
    assert.equal(nameOf(['a|loop|', 'r|.*|'], '/dev/sda'), null);
    assert.equal(nameOf(['r|/dev/sd[ab]$|'], '/dev/sdc'), '/dev/sdc');
    assert.equal(nameOf(['r(^/dev/sda$)', 'a{.*}'], '/dev/sda'), null);
  });
  test('one accepted name is enough, and the one to use', () => {
    const patterns = ['a|/by-id/|', 'r|.*|'];
    assert.equal(nameOf(patterns, '/dev/sda', '/dev/disk/by-id/x'), '/dev/disk/by-id/x');
    assert.equal(nameOf(['r|/by-id/|'], '/dev/sda', '/dev/disk/by-id/x'), null);
  });
  test('patterns that are none are refused', () => {
    for (const pattern of ['', 'x|a|', 'a', 'a|b', 'a(b(', 'a|[|']) {
      assert.throws(() => new DeviceFilter([pattern]), CommandError, pattern);
    }
  });
});

const find = async (config: string): Promise<readonly string[]> => {
  const settings = new Settings([{ source: 'file', nodes: parseConfig(config) }]);
  const filters = [new DeviceFilter(settings.strings('devices/filter'))];
  const { usable } = await findHostDevices(settings, { filters, listed: null });
  return usable.map(({ path }) => path);
};

describe('devices of the host', () => {
  test('are found below devices/scan, once, by the preferred name', async () => {
    const dev = join(folder, 'dev');
    mkdirSync(join(dev, 'mapper'), { recursive: true });
    symlinkSync(loop, join(dev, 'mapper', 'pv1'));
    symlinkSync(loop, join(dev, 'zz'));
    const config = `devices { dir="${dev}" scan="${dev}" }`;
    assert.deepEqual(await find(config), [join(dev, 'zz')]);
    assert.deepEqual(await find(`${config} devices/preferred_names=["/mapper/"]`), [join(dev, 'mapper/pv1')]);
    assert.deepEqual(await find(`${config} devices/filter=["r|zz|","a|pv1|"]`), [join(dev, 'mapper/pv1')]);
    assert.deepEqual(await find(`${config} devices/filter=["r|.*|"]`), []);
    assert.deepEqual(await find(`${config} devices/pv_min_size=8192`), []);
  });
});

const device = (): HostDevice => {
  const [major = 0, minor = 0] = readFileSync(`/sys/class/block/${loop.slice(5)}/dev`, 'utf8')
    .trim()
    .split(':')
    .map(Number);
  return { path: loop, names: [loop], major, minor };
};

const entryArbitrary: fc.Arbitrary<DeviceEntry> = fc.record(
  {
    idType: fc.constantFrom('sys_wwid', 'devname', 'loop_file', 'wwid_naa'),
    idName: fc.option(fc.stringMatching(/^[a-z0-9/_][a-z0-9/_.-]{0,30}$/)),
    deviceName: fc.option(fc.stringMatching(/^\/dev\/[a-z0-9]{1,10}$/)),
    pvid: fc.option(fc.stringMatching(/^[A-Za-z0-9]{32}$/)),
    partition: fc.nat(64),
  },
  { noNullPrototype: true },
);

describe('the devices file', () => {
  test('is read back as it was written', () => {
    fc.assert(
      fc.property(fc.array(entryArbitrary, { maxLength: 5 }), (entries) => {
        const text = `# c\nSYSTEMID=h\nVERSION=1.1.9\n${entries.map(lineOfEntry).join('\n')}\n`;
        assert.deepEqual(parseDevicesFile(text), { systemId: 'h', version: '1.1.9', entries });
      }),
      { numRuns: 100 },
    );
  });
  test('bears any text', () => {
    fc.assert(
      fc.property(fc.string(), (text) => assert.ok(parseDevicesFile(text).entries.length >= 0)),
      { numRuns: 200 },
    );
  });

  test('knows a loop device by its file, and LVM2 agrees', async () => {
    const systemDirectory = join(folder, 'sys');
    const file = new DevicesFile({
      systemDirectory,
      name: 'system.devices',
      lockDirectory: join(folder, 'lock'),
      commandName: 'test',
      systemId: null,
      warn: assert.fail,
    });
    assert.equal(await file.read(), null);
    await file.update((entries) => withDevice(entries, device(), null));
    await file.update((entries) => withDevice(entries, device(), 'x'.repeat(32)));
    const text = await file.read();
    assert.equal(text?.version, '1.1.2');
    const [entry, second] = text?.entries ?? [];
    assert.equal(second, undefined);
    assert.deepEqual(entry, {
      idType: 'loop_file',
      idName: join(folder, 'image'),
      deviceName: loop,
      pvid: 'x'.repeat(32),
      partition: 0,
    });
    assert.equal(await findEntry(text?.entries ?? [], device()), entry);
    assert.ok(entry !== undefined && !(await entryMatches({ ...entry, partition: 1 }, device())));
    assert.ok(!(await entryMatches({ ...entry, idName: '/other' }, device())));
    const env = { ...process.env, LVM_SYSTEM_DIR: systemDirectory, LVM_SUPPRESS_FD_WARNINGS: '1' };
    const config = `devices/use_devicesfile=1 global/locking_dir="${join(folder, 'lock')}"`;
    const listed = execFileSync('lvm', ['lvmdevices', '--config', config], { env, encoding: 'utf8' });
    assert.equal(
      listed.trim(),
      `Device ${loop} IDTYPE=loop_file IDNAME=${join(folder, 'image')} DEVNAME=${loop} PVID=${'x'.repeat(32)}`,
    );
  });

  test('of a newer major version is not written', async () => {
    const systemDirectory = join(folder, 'newer');
    mkdirSync(join(systemDirectory, 'devices'), { recursive: true });
    const path = join(systemDirectory, 'devices/x');
    writeFileSync(path, 'VERSION=2.0.1\n');
    const warnings: string[] = [];
    const file = new DevicesFile({
      systemDirectory,
      name: 'x',
      lockDirectory: null,
      commandName: 'test',
      systemId: null,
      warn: (line) => warnings.push(line),
    });
    await file.update((entries) => withDevice(entries, device(), null));
    assert.equal(readFileSync(path, 'utf8'), 'VERSION=2.0.1\n');
    assert.deepEqual(warnings, ['WARNING: not updating devices file with larger major version.']);
  });
});
