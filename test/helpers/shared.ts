/**
 * The material beside the checkout that peers left for judging us: golden volume groups made by Linux, sample texts, the
 * virtual machine. It is read-only: images are unpacked into a temporary folder before anything is done with them.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

export const CHECKOUT: string = resolve(import.meta.dirname, '../..');
export const SHARED: string = resolve(CHECKOUT, '../shared');

const run = promisify(execFile);

export interface GoldenVolume {
  readonly name: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

export interface Golden {
  readonly vgName: string;
  /** Paths of the physical volumes' images. */
  readonly images: readonly string[];
  readonly volumes: readonly GoldenVolume[];
  /** The VG's metadata as `vgcfgbackup` printed it. */
  readonly vgText: string;
  /** The folder they are in. */
  readonly folder: string;
}

/** Calls `use` with a temporary folder and removes it afterwards. */
export async function withTemporaryFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-test-'));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Unpacks a golden volume group into `folder`. */
export async function unpackGolden(name: string, folder: string): Promise<Golden> {
  const archive = join(SHARED, 'golden', `${name}.tar.zst`);
  if (!existsSync(archive))
    throw new Error(`${archive} is missing: the golden volume groups are expected beside the checkout`);
  await run('tar', ['--zstd', '-xSf', archive, '-C', folder]);
  const images: string[] = [];
  for (let i = 1; existsSync(join(folder, `pv${i}.img`)); i++) images.push(join(folder, `pv${i}.img`));
  const manifest = await readFile(join(folder, 'manifest'), 'utf8');
  const vgText = await readFile(join(folder, 'vg.txt'), 'utf8');
  const volumes = manifest
    .trim()
    .split('\n')
    .map((line) => {
      const [volume = '', size = '', sha256 = ''] = line.split(' ');
      return { name: volume, sizeBytes: Number(size), sha256 };
    });
  const vgName = /^([\w.+-]+) \{/m.exec(vgText)?.[1] ?? '';
  return { vgName, images, volumes, vgText, folder };
}
