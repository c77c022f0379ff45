/**
 * One set of loop devices for our commands and for the real LVM2, with the same configuration and the same lock files. LVM2's
 * device-mapper is played by the shim beside the checkout, so that it can make LVs of every type; nothing stays active.
 * Needs root, lvm2 and gcc (test/setup).
 */
import assert from 'node:assert/strict';
import { mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Scan } from '../../src/lvm/model.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { SHARED, withTemporaryFolder } from '../helpers/shared.ts';
import { ours, type Shown } from '../peers/reports.ts';

export interface Lab {
  /** Device nodes, called pv0, pv1 … */
  readonly devices: readonly string[];
  /** A folder for anything else. */
  readonly folder: string;
  /** Runs a command on these devices. */
  ours(command: string, ...args: readonly string[]): Promise<Shown>;
  theirs(command: string, ...args: readonly string[]): Promise<Shown>;
  /** What our scan finds. */
  scan(): Promise<Scan>;
  /** The real commands accept what is there without a warning, and what ours report is the same, byte for byte. */
  agree(): Promise<void>;
}

const UNITS = ['--units', 'b', '--reportformat', 'json'];
const PVS =
  '+pv_uuid,dev_size,pe_start,pv_pe_count,pv_pe_alloc_count,pv_tags,pv_mda_count,pv_mda_used_count,pv_mda_size,pv_mda_free,pv_ba_start,pv_ba_size,pv_in_use,pv_exported,pv_allocatable';
const LVS =
  '+devices,seg_pe_ranges,lv_uuid,lv_tags,lv_allocation_policy,lv_read_ahead,lv_minor,lv_autoactivation,lv_skip_activation,lv_time,lv_host,segtype,stripes,stripe_size,seg_start_pe,seg_size_pe,origin,pool_lv';
/** Persistent minor numbers are stored with the major number of this kernel's device-mapper, and the shim's is another. */
const OTHER_MAJOR = /^ {2}Ignoring supplied major \d+ number - kernel assigns major numbers dynamically\.\n/gm;
const REPORTS: readonly (readonly string[])[] = [
  ['pvs', '-o', PVS, ...UNITS],
  ['vgs', '-o', '+vg_all', ...UNITS],
  ['lvs', '-a', '-o', LVS, ...UNITS],
];

/** Makes devices of these sizes (bytes), with these logical blocks (bytes; default 512), and calls `use`. */
export async function withLab(
  sizes: readonly number[],
  use: (lab: Lab) => Promise<void>,
  blockSizes: readonly number[] = [],
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const loops: string[] = [];
    try {
      await mkdir(join(folder, 'dev/mapper'), { recursive: true });
      for (const [index, size] of sizes.entries()) {
        const image = join(folder, `image${index}`);
        const file = await open(image, 'w');
        await file.truncate(size);
        await file.close();
        const loop = (await mustRun('losetup', ['-f', '--show', '-b', String(blockSizes[index] ?? 512), image])).trim();
        loops.push(loop);
        await mustRun('mknod', [join(folder, 'dev', `pv${index}`), 'b', '7', loop.replace('/dev/loop', '')]);
      }
      await use(labIn(folder, sizes.length, await prepare(folder)));
    } finally {
      for (const loop of loops) await runProgram('losetup', ['-d', loop]);
    }
  });
}

/** The shim, its state, and a configuration for both. */
async function prepare(folder: string): Promise<NodeJS.ProcessEnv> {
  const dm = join(folder, 'dm');
  for (const name of ['lock', 'dm', 'dm/data', 'dm/sys', 'backup']) await mkdir(join(folder, name));
  const devices = await readFile('/proc/devices', 'latin1');
  await writeFile(join(dm, 'proc_devices'), devices.replace('Block devices:\n', 'Block devices:\n252 device-mapper\n'));
  const misc = await readFile('/proc/misc', 'latin1');
  await writeFile(join(dm, 'proc_misc'), /device-mapper/.test(misc) ? misc : `${misc}236 device-mapper\n`);
  const shim = join(folder, 'fakedm.so');
  const source = join(SHARED, 'lvm2-suite/lib/fakedm.c');
  await mustRun('gcc', ['-O1', '-shared', '-fPIC', '-w', '-o', shim, source, '-ldl']);
  const dev = join(folder, 'dev');
  await writeFile(
    join(folder, 'lvm.conf'),
    `global { use_lvmpolld = 0 use_lvmlockd = 0 locking_dir = "${join(folder, 'lock')}" }\n` +
      `devices { dir = "${dev}" scan = [ "${dev}" ] use_devicesfile = 0 hints = "none" sysfs_scan = 0\n` +
      '  obtain_device_list_from_udev = 0 external_device_info_source = "none" }\n' +
      'activation { monitoring = 0 udev_sync = 0 udev_rules = 0 verify_udev_operations = 0 }\n' +
      `backup { archive = 0 backup_dir = "${join(folder, 'backup')}" }\n`,
  );
  return {
    LVM_SYSTEM_DIR: folder,
    LVM_SUPPRESS_FD_WARNINGS: '1',
    DM_DEV_DIR: dev,
    FAKEDM_DIR: dm,
    LD_PRELOAD: shim,
  };
}

function labIn(folder: string, count: number, env: NodeJS.ProcessEnv): Lab {
  const devices = Array.from({ length: count }, (_, index) => join(folder, 'dev', `pv${index}`));
  const list = ['--devices', devices.join(',')];
  const { LD_PRELOAD: _, ...ownEnv } = env;
  const real = async (command: string, args: readonly string[]): Promise<Shown> => {
    // LVM2 finds the devices by its configuration: pvck takes no --devices.
    return runProgram('lvm', [command, ...args], { env });
  };
  const own: Lab['ours'] = (command, ...args) => ours([command, ...list, ...args], ownEnv);
  const same = async (command: string, args: readonly string[], accepts: boolean): Promise<void> => {
    const theirs = await real(command, args);
    const answer = await own(command, ...args);
    const title = `${command} ${args.join(' ')}`;
    if (accepts) assert.equal(`${theirs.status} ${theirs.stderr}`, '0 ', `LVM2 does not accept: ${title}`);
    sameLines(answer.stdout, theirs.stdout.replaceAll(OTHER_MAJOR, ''), `stdout of: ${title}\n${answer.stderr}`);
    sameLines(answer.stderr, theirs.stderr, `stderr of: ${title}`);
    assert.equal(answer.status, theirs.status, `exit code of: ${title}`);
  };
  return {
    devices,
    folder,
    ours: own,
    async theirs(command, ...args) {
      const answer = await real(command, args);
      await deactivate(folder);
      return answer;
    },
    scan: () => scanDevices(devices),
    async agree() {
      const { volumeGroups, orphans } = await scanDevices(devices);
      const exported = volumeGroups.some(({ vg }) => vg.status.includes('EXPORTED'));
      // The real pvck finds no label but in sector 1, wherever the real pvcreate put it.
      const pvs = [...volumeGroups.flatMap((group) => group.pvs), ...orphans].flatMap(({ found }) =>
        found?.labelSector === 1 ? [found.device.path] : [],
      );
      const checks = await Promise.allSettled([
        ...REPORTS.map(([command = '', ...args]) => same(command, args, !exported || command === 'pvs')),
        same('vgck', [], !exported),
        ...(pvs.length === 0 ? [] : [same('pvck', pvs.toSorted(), true)]),
      ]);
      for (const check of checks) if (check.status === 'rejected') throw check.reason;
    },
  };
}

/** Shows only the lines that differ: reports have long ones. */
function sameLines(ours: string, theirs: string, title: string): void {
  if (ours === theirs) return;
  const [own, real] = [ours.split('\n'), theirs.split('\n')];
  assert.deepEqual(
    own.filter((line) => !real.includes(line)),
    real.filter((line) => !own.includes(line)),
    title,
  );
  assert.fail(`${title}: other order of\n${ours}\nand\n${theirs}`);
}

/** The shim forgets its devices, as a machine that was started anew; what LVs held was never on the PVs. */
async function deactivate(folder: string): Promise<void> {
  const dm = join(folder, 'dm');
  const dev = join(folder, 'dev');
  for (const name of await readdir(dm)) if (!name.startsWith('proc_')) await rm(join(dm, name), { recursive: true });
  await mkdir(join(dm, 'data'));
  await mkdir(join(dm, 'sys'));
  for (const name of await readdir(dev)) {
    if (!/^pv\d+$/.test(name)) await rm(join(dev, name), { recursive: true });
  }
  await mkdir(join(dev, 'mapper'));
}
