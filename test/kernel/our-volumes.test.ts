/**
 * Volume groups that our commands made and changed, with data that was written through our daemon before: the kernel's LVM2
 * activates them and finds every byte, and what it then changes is ours to read.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { startDaemon } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';
import { ours } from '../peers/reports.ts';

const MIB = 2 ** 20;
const VG = 'orion';

/** A command on the disks; it must succeed. */
type Run = (command: string, ...args: readonly string[]) => Promise<void>;

async function makeDisks(folder: string, count: number): Promise<readonly string[]> {
  const paths = Array.from({ length: count }, (_, index) => join(folder, `disk${index}`));
  for (const path of paths) {
    const file = await open(path, 'w');
    await file.truncate(64 * MIB);
    await file.close();
  }
  return paths;
}

function runner(folder: string, disks: readonly string[]): Run {
  return async (command, ...args) => {
    const list = ['--devices', disks.join(',')];
    const { status, stdout, stderr } = await ours([command, ...list, ...args, '-y'], { LVM_SYSTEM_DIR: folder });
    assert.equal(status, 0, `${command} ${args.join(' ')}\n${stdout}${stderr}`);
  };
}

/** Contents of volumes as they should be, by name. */
class Volumes {
  readonly #folder: string;
  readonly #disks: readonly string[];
  readonly #contents = new Map<string, Buffer>();

  constructor(folder: string, disks: readonly string[]) {
    this.#folder = folder;
    this.#disks = disks;
  }

  /** Checks what the volumes hold; those that are new or have grown are filled with random bytes. */
  async check(extents: Readonly<Record<string, number>>): Promise<void> {
    const daemon = await startDaemon(this.#disks);
    try {
      for (const [name, count] of Object.entries(extents)) {
        const uri = daemon.uri(`${VG}/${name}`);
        const size = count * MIB;
        assert.equal((await mustRun('nbdinfo', ['--size', uri])).trim(), String(size), name);
        const path = join(this.#folder, 'content');
        const known = (this.#contents.get(name) ?? Buffer.alloc(0)).subarray(0, size);
        await mustRun('nbdcopy', [uri, path]);
        assert.equal(await sha256Of(path, known.length), sha256(known), `the content of ${name}`);
        const content = Buffer.concat([known, randomBytes(size - known.length)]);
        await writeFile(path, content);
        await mustRun('nbdcopy', ['--flush', path, uri]);
        this.#contents.set(name, content);
      }
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
    for (const name of this.#contents.keys()) if (!(name in extents)) this.#contents.delete(name);
  }

  rename(from: string, to: string): void {
    const content = this.#contents.get(from);
    assert(content !== undefined);
    this.#contents.delete(from);
    this.#contents.set(to, content);
  }

  /** A line for each. */
  manifest(): string {
    return [...this.#contents].map(([name, content]) => `${name} ${content.length} ${sha256(content)}`).join('\n');
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function sha256Of(path: string, length: number): Promise<string> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, 0);
    return sha256(buffer);
  } finally {
    await file.close();
  }
}

test('the kernel activates what our commands made, with its data', async () => {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'lock'));
    const locks = `global { locking_dir = "${join(folder, 'lock')}" }`;
    await writeFile(join(folder, 'lvm.conf'), `${locks}\nbackup { backup = 0 archive = 0 }\n`);
    const disks = await makeDisks(folder, 3);
    const [first = '', second = '', third = ''] = disks;
    const run = runner(folder, disks);
    const volumes = new Volumes(folder, disks);

    await run('pvcreate', '--dataalignment', '192k', '--bootloaderareasize', '1m', second);
    await run('vgcreate', '-s', '1m', VG, first, second);
    await run('lvcreate', '-l', '5', '-n', 'linear', VG, first);
    await run('lvcreate', '-l', '8', '-i', '2', '-I', '16k', '-n', 'striped', VG);
    await run('lvcreate', '-l', '9', '-n', 'pieces', VG, `${first}:20-22`, `${second}:30-32`, `${first}:40-42`);
    await run('lvcreate', '-l', '6', '-n', 'shrinks', VG);
    await run('lvcreate', '-l', '2', '-n', 'goes', VG);
    await volumes.check({ linear: 5, striped: 8, pieces: 9, shrinks: 6, goes: 2 });

    await run('vgextend', '--pvmetadatacopies', '2', VG, third);
    await run('lvextend', '-l', '+4', `${VG}/linear`, third);
    await run('lvextend', '-l', '+4', `${VG}/striped`);
    await run('lvreduce', '-f', '-l', '4', `${VG}/shrinks`);
    await run('lvremove', `${VG}/goes`);
    await run('lvrename', `${VG}/shrinks`, 'shrunk');
    volumes.rename('shrinks', 'shrunk');
    const extents = { linear: 9, striped: 12, pieces: 9, shrunk: 4 };
    await volumes.check(extents);
    await run('pvmove', '-n', 'pieces', first, third);
    await volumes.check(extents);

    const { status, output } = await runInVm(join(import.meta.dirname, 'our-volumes.sh'), {
      args: [VG, volumes.manifest()],
      disks,
      timeoutSeconds: 600,
    });
    assert.equal(status, 0, output);
    assert.match(output, /^done$/m, output);

    const daemon = await startDaemon(disks);
    try {
      const lines = [...output.matchAll(/^now (\S+) (\S+)\r?$/gm)];
      assert.equal(lines.length, 2, output);
      for (const [, name = '', hash] of lines) {
        const path = join(folder, 'read');
        await mustRun('nbdcopy', [daemon.uri(`${VG}/${name}`), path]);
        assert.equal((await mustRun('sha256sum', [path])).split(' ')[0], hash, name);
      }
    } finally {
      await daemon.stop();
    }
  });
});
