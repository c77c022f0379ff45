/** A volume group "vg" with snapshots, its commands, and the daemon that serves it: for tests of commands about COW snapshots. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type RunningDaemon, startDaemon } from './daemon.ts';
import { stopLast } from './hand-over.ts';
import { mustRun, type Outcome, runProgram } from './run.ts';
import { CHECKOUT, withTemporaryFolder } from './shared.ts';

const MIB = 2 ** 20;

export interface StandOptions {
  /** Of each PV. Default 256. */
  readonly pvMib?: number;
  /** Of vg/o. Default 40. */
  readonly originMib?: number;
  /** How many PVs; vg/o is on the first. Default 1. */
  readonly pvs?: number;
  /** On loop devices, which a daemon opens with O_EXCL; takes root. */
  readonly loops?: boolean;
}

export class SnapshotStand {
  readonly folder: string;
  /** Paths of the PVs. */
  readonly pvs: readonly string[];
  #daemon: RunningDaemon | null = null;

  private constructor(folder: string, pvs: readonly string[]) {
    this.folder = folder;
    this.pvs = pvs;
  }

  /** vg with vg/o; nothing serves it. */
  static async with(use: (stand: SnapshotStand) => Promise<void>, options: StandOptions = {}): Promise<void> {
    const { pvMib = 256, originMib = 40, pvs: count = 1, loops = false } = options;
    await withTemporaryFolder(async (folder) => {
      await using opened = new AsyncDisposableStack();
      const pvs: string[] = [];
      for (let index = 0; index < count; index++) {
        const image = join(folder, `pv${index}`);
        await writeFile(image, '');
        await truncate(image, pvMib * MIB);
        if (!loops) {
          pvs.push(image);
          continue;
        }
        const device = (await mustRun('losetup', ['-f', '--show', image])).trim();
        opened.defer(async () => void (await mustRun('losetup', ['-d', device])));
        pvs.push(device);
      }
      const stand = new SnapshotStand(folder, pvs);
      opened.defer(() => stand.stop());
      await stand.must('vgcreate', 'vg', ...pvs);
      await stand.must('lvcreate', `-L${originMib}M`, '-no', 'vg', stand.image);
      await use(stand);
    });
  }

  /** The path of the first PV. */
  get image(): string {
    return this.pvs[0] ?? '';
  }

  get daemon(): RunningDaemon {
    if (this.#daemon === null) throw new Error('no daemon runs');
    return this.#daemon;
  }

  async serve(workers: string): Promise<void> {
    this.#daemon = await startDaemon(this.pvs, ['--workers', workers], { LVM_SYSTEM_DIR: this.folder });
  }

  /** Ends the daemon; `signal`: as a power cut ends it. */
  async stop(signal?: 'SIGKILL'): Promise<void> {
    const daemon = this.#daemon;
    this.#daemon = null;
    if (daemon === null) return;
    if (signal !== undefined) daemon.child.kill(signal);
    // It has handed over to another process.
    else if (daemon.child.exitCode === 0) await stopLast(daemon);
    await daemon.stop();
  }

  get env(): Record<string, string> {
    const control = this.#daemon === null ? '' : join(dirname(this.#daemon.socket), 'control.sock');
    return { ORION_LVM_DEVICES: this.pvs.join(','), ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
  }

  run(command: string, ...args: readonly string[]): Promise<Outcome> {
    return runProgram(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }

  must(command: string, ...args: readonly string[]): Promise<string> {
    return mustRun(join(CHECKOUT, 'bin', command), args, { cwd: this.folder, env: this.env });
  }

  /** One line per LV, hidden ones too: name, attributes, size, origin, Data%. */
  async volumes(): Promise<readonly string[]> {
    const fields = 'lv_name,lv_attr,lv_size,origin,data_percent';
    const text = await this.must('lvs', '-a', '--noheadings', '--separator', ' ', '-o', fields, 'vg');
    return [...new Set(text.split('\n').flatMap((line) => (line.trim() === '' ? [] : [line.trim()])))];
  }

  /** Writes blocks of 4 KiB at random places of the first 32 MiB, and reads them back. */
  async write(name: string, mib: number, seed: number): Promise<void> {
    const job = `--name=f --ioengine=nbd --uri=${this.daemon.uri(`vg/${name}`)} --rw=randwrite --bs=4k --iodepth=8`;
    const rest = `--size=32m --io_size=${mib}m --randseed=${seed * 1_000_003} --end_fsync=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0`;
    await mustRun('fio', `${job} ${rest}`.split(' '), { cwd: this.folder });
  }

  async hash(name: string): Promise<string> {
    const copy = join(this.folder, `copy-${name}`);
    await mustRun('nbdcopy', ['--no-extents', this.daemon.uri(`vg/${name}`), copy]);
    const hash = createHash('sha256');
    await pipeline(createReadStream(copy), hash);
    return hash.digest('hex');
  }
}
