/** A volume group "vg" with snapshots, its commands, and the daemon that serves it: for tests of commands about COW snapshots. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type RunningDaemon, startDaemon } from './daemon.ts';
import { mustRun, type Outcome, runProgram } from './run.ts';
import { CHECKOUT, withTemporaryFolder } from './shared.ts';

const MIB = 2 ** 20;

export class SnapshotStand {
  readonly folder: string;
  readonly image: string;
  #daemon: RunningDaemon | null = null;

  private constructor(folder: string) {
    this.folder = folder;
    this.image = join(folder, 'pv0');
  }

  /** vg with vg/o of 40 MiB, on one PV; nothing serves it. */
  static async with(
    use: (stand: SnapshotStand) => Promise<void>,
    options: { readonly pvMib?: number } = {},
  ): Promise<void> {
    await withTemporaryFolder(async (folder) => {
      const stand = new SnapshotStand(folder);
      await writeFile(stand.image, '');
      await truncate(stand.image, (options.pvMib ?? 256) * MIB);
      await stand.must('vgcreate', 'vg', stand.image);
      await stand.must('lvcreate', '-L40M', '-no', 'vg');
      try {
        await use(stand);
      } finally {
        await stand.stop();
      }
    });
  }

  get daemon(): RunningDaemon {
    if (this.#daemon === null) throw new Error('no daemon runs');
    return this.#daemon;
  }

  async serve(workers: string): Promise<void> {
    this.#daemon = await startDaemon([this.image], ['--workers', workers], { LVM_SYSTEM_DIR: this.folder });
  }

  /** Ends the daemon; `signal`: as a power cut ends it. */
  async stop(signal?: 'SIGKILL'): Promise<void> {
    const daemon = this.#daemon;
    this.#daemon = null;
    if (signal !== undefined) daemon?.child.kill(signal);
    await daemon?.stop();
  }

  get env(): Record<string, string> {
    const control = this.#daemon === null ? '' : join(dirname(this.#daemon.socket), 'control.sock');
    return { ORION_LVM_DEVICES: this.image, ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
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
