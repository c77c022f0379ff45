/**
 * A volume group of 255 PVs and 65,536 LVs: time and memory of reading it, listing it and making its last LV, ours beside the
 * real LVM2's on the same loop devices. The images are sparse; two PVs hold the metadata, in areas of 128 MiB.
 *
 *     node bench/scale.ts [LVS [ROUNDS]]      as root, with lvm2 installed; prints a table of medians
 *
 * Both get the same configuration: nothing is archived or backed up, and no LV is activated or zeroed.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { PLAIN_HOST } from '../src/lvm/access.ts';
import type { ChangeContext } from '../src/lvm/change-context.ts';
import type { Changes } from '../src/lvm/changes.ts';
import { withChanges } from '../src/lvm/command.ts';
import { emptyPlan } from '../src/lvm/edit/plan.ts';
import { createPvPlan, newPvWrite } from '../src/lvm/edit/pv-create.ts';
import { createVgPlan } from '../src/lvm/edit/vg-create.ts';
import { EFFECTS } from '../src/lvm/effects.ts';
import { LAYOUT_DEFAULTS } from '../src/lvm/pv-layout.ts';
import type { LogicalVolumeText } from '../src/ondisk/metadata.ts';
import { newUuid } from '../src/ondisk/uuid.ts';

const PVS = 255;
const LVS = Number(process.argv[2] ?? '65536');
const ROUNDS = Number(process.argv[3] ?? '3');
const MIB = 2 ** 20;
const TICKS_PER_SECOND = 100;
const SECTOR_BYTES = 512;
const AREA_MIB = 128;
const EXTENT_SECTORS = 256;
const EXTENTS_PER_PV = Math.ceil((LVS + PVS) / PVS);
const PV_BYTES = Math.ceil((EXTENTS_PER_PV * EXTENT_SECTORS * SECTOR_BYTES) / MIB + 4) * MIB;
const NOW = 1_795_349_543;
const ROOT = resolve(import.meta.dirname, '..');

interface Run {
  readonly seconds: number;
  /** Of all processors; what it cost on a machine that has other work, too. */
  readonly cpu: number;
  readonly mib: number;
}

interface Command {
  readonly name: string;
  readonly args: readonly string[];
  /** Undoes it, untimed. */
  readonly undo?: readonly string[];
}

/** Runs a program to its end; its time, and the most memory that it had. */
function timed(program: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Run> {
  return new Promise((done, reject) => {
    const start = process.hrtime.bigint();
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    let mib = 0;
    let cpu = 0;
    const look = setInterval(() => {
      try {
        const status = readFileSync(`/proc/${child.pid}/status`, 'latin1');
        mib = Math.max(mib, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
        const [user, system] =
          readFileSync(`/proc/${child.pid}/stat`, 'latin1').split(') ')[1]?.split(' ').slice(11) ?? [];
        cpu = Math.max(cpu, (Number(user) + Number(system)) / TICKS_PER_SECOND);
      } catch {
        // It has ended.
      }
    }, 10);
    child.stdout.on('data', () => undefined);
    child.stderr.on('data', (text: Buffer) => (said += text.toString()));
    child.on('error', reject);
    child.on('close', (status) => {
      clearInterval(look);
      const seconds = Number(process.hrtime.bigint() - start) / 1e9;
      if (status === 0) done({ seconds, cpu, mib });
      else reject(new Error(`${program} ${args.join(' ')} exited with ${status}: ${said.slice(0, 2000)}`));
    });
  });
}

async function output(program: string, ...args: readonly string[]): Promise<string> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  for await (const chunk of child.stdout) text += String(chunk);
  return text.trim();
}

function changeContext(devices: readonly string[]): ChangeContext {
  return {
    devices,
    host: PLAIN_HOST,
    locking: null,
    writer: { commandLine: 'bench', generator: 'Orion LVM', hostName: hostname(), uname: 'Linux' },
    backup: { archive: null, backup: null },
    hintsDirectory: null,
    effects: EFFECTS,
    test: false,
    yes: 1,
    force: 0,
    prompt: () => Promise.resolve(true),
    out: () => undefined,
    err: (line) => void process.stderr.write(`${line}\n`),
    now: () => NOW,
  };
}

/** The LV of that number: one extent, on the PVs in turn. */
function volume(index: number): LogicalVolumeText {
  return {
    name: `lv${index}`,
    id: newUuid(),
    status: ['READ', 'WRITE', 'VISIBLE'],
    flags: [],
    tags: [],
    creationTime: NOW,
    creationHost: 'bench',
    segments: [
      {
        type: 'striped',
        startExtent: 0,
        extentCount: 1,
        tags: [],
        typeFlags: [],
        areas: [{ name: `pv${index % PVS}`, extent: Math.floor(index / PVS) }],
        extra: [],
      },
    ],
    extra: [],
  };
}

/** All but the last LV. */
async function fill(changes: Changes): Promise<void> {
  for (const [index, device] of changes.scan.devices.entries()) {
    const copies = index < 2 ? 1 : 0;
    const request = {
      zero: true,
      labelSector: 1,
      metadataIgnore: false,
      metadataSectors: (AREA_MIB * MIB) / SECTOR_BYTES,
      metadataCopies: copies,
      alignmentSectors: 0,
      alignmentOffsetSectors: 0,
      bootloaderSectors: 0,
      sizeSectors: 0,
      restored: null,
      defaults: LAYOUT_DEFAULTS,
    } as const;
    const write = newPvWrite({ name: device.path, device, topology: null, uuid: newUuid() }, request);
    await changes.apply(createPvPlan(device.path, write));
  }
  const { devices, orphans } = changes.scan;
  const byPath = new Map(orphans.map(({ found }) => [found?.device.path, found]));
  const joining = devices.flatMap(({ path }) => byPath.get(path) ?? []);
  const group = {
    name: 'vg',
    id: newUuid(),
    extentSizeSectors: EXTENT_SECTORS,
    maxLv: 0,
    maxPv: 0,
    allocationPolicy: 'normal',
    tags: [],
    metadataCopies: 0,
    systemId: null,
    noAutoactivation: false,
  } as const;
  await changes.apply(createVgPlan(group, joining));
  const created = await changes.volumeGroup({ vgName: 'vg' });
  const logicalVolumes = Array.from({ length: LVS - 1 }, (_, index) => volume(index));
  await changes.apply(emptyPlan(created, { ...created.vg, logicalVolumes }));
}

async function makeImages(folder: string): Promise<readonly string[]> {
  const images: string[] = [];
  for (let index = 0; index < PVS; index++) {
    const image = join(folder, `pv${index}`);
    const file = await open(image, 'w');
    await file.truncate(PV_BYTES + (index < 2 ? AREA_MIB * MIB : 0));
    await file.close();
    images.push(image);
  }
  await withChanges(changeContext(images), {}, fill);
  return images;
}

const COMMANDS: readonly Command[] = [
  { name: 'vgs', args: [] },
  { name: 'pvs', args: [] },
  { name: 'lvs', args: [] },
  { name: 'lvs', args: ['-o', '+devices,seg_pe_ranges', '--reportformat', 'json'] },
  { name: 'vgck', args: ['vg'] },
  {
    name: 'lvcreate',
    args: ['-an', '-Zn', '-Wn', '-l1', '-n', 'last', 'vg'],
    undo: ['lvremove', '-y', 'vg/last'],
  },
];

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

async function measure(
  program: (name: string, args: readonly string[]) => Promise<Run>,
  command: Command,
): Promise<Run> {
  const runs: Run[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    runs.push(await program(command.name, command.args));
    const [undo, ...args] = command.undo ?? [];
    if (undo !== undefined) await program(undo, args);
  }
  const cpu = median(runs.map((run) => run.cpu));
  return { seconds: median(runs.map(({ seconds }) => seconds)), cpu, mib: median(runs.map(({ mib }) => mib)) };
}

async function compare(folder: string, devices: readonly string[]): Promise<void> {
  await mkdir(join(folder, 'lock'));
  await writeFile(
    join(folder, 'lvm.conf'),
    `global { use_lvmpolld = 0 locking_dir = "${join(folder, 'lock')}" }\nactivation { monitoring = 0 }\n` +
      'devices { use_devicesfile = 0 hints = "none" }\nbackup { backup = 0 archive = 0 }\n',
  );
  const env = { LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1' };
  const list = ['--devices', devices.join(',')];
  process.stdout.write(`${PVS} PVs, ${LVS} LVs, medians of ${ROUNDS}\n\n`);
  process.stdout.write(
    '| command | Orion LVM | CPU | memory | LVM2 | CPU | memory |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n',
  );
  for (const command of COMMANDS) {
    const ours = await measure((name, args) => timed(join(ROOT, 'bin', name), [...args, ...list], env), command);
    const theirs = await measure(
      (name, args) => timed('lvm', [name, ...args, ...list, '--driverloaded', 'n'], env),
      command,
    );
    const cells = [ours, theirs].map(
      ({ seconds, cpu, mib }) => `${seconds.toFixed(1)} s | ${cpu.toFixed(1)} s | ${Math.round(mib)} MiB`,
    );
    process.stdout.write(`| \`${[command.name, ...command.args].join(' ')}\` | ${cells.join(' | ')} |\n`);
  }
}

const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-scale-'));
const loops: string[] = [];
try {
  for (const image of await makeImages(folder)) loops.push(await output('losetup', '-f', '--show', image));
  await compare(folder, loops);
} finally {
  for (const loop of loops) await output('losetup', '-d', loop);
  await rm(folder, { recursive: true, force: true });
}
