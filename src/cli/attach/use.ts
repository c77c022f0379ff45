/**
 * Who uses a block device of the kernel: mounts, swap, and devices on top of it, of the device and of its partitions.
 *
 * Sources: proc(5) for mountinfo and swaps; /sys/block/NAME/{dev,holders} and the directories of its partitions.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AttachSystem } from '../../daemon/client/attached.ts';

/** Each use as the end of a sentence: "is mounted on /mnt". */
export async function usesOf(kernelName: string, system: AttachSystem): Promise<readonly string[]> {
  const directory = join(system.sysBlock, kernelName);
  const children = (await entries(directory)).filter((name) => name.startsWith(`${kernelName}p`));
  const parts = [directory, ...children.map((name) => join(directory, name))];
  const numbers = new Set<string>();
  const holders: string[] = [];
  for (const part of parts) {
    numbers.add((await text(join(part, 'dev'))).trim());
    holders.push(...(await entries(join(part, 'holders'))));
  }
  const names = new Set([kernelName, ...children].map((name) => join(system.dev, name)));
  return [
    ...(await mountsOf(numbers, system)).map((place) => `is mounted on ${place}`),
    ...(await swapsOf(names, system)).map((name) => `is used as swap space (${name})`),
    ...holders.map((name) => `is part of ${name}`),
  ];
}

/** Lines are: id, parent, major:minor, root, mount point (with octal escapes), … */
async function mountsOf(numbers: ReadonlySet<string>, system: AttachSystem): Promise<readonly string[]> {
  const lines = (await text(join(system.proc, 'self/mountinfo'))).split('\n');
  return lines.flatMap((line) => {
    const [, , number = '', , place = ''] = line.split(' ');
    return numbers.has(number) ? [unescaped(place)] : [];
  });
}

async function swapsOf(names: ReadonlySet<string>, system: AttachSystem): Promise<readonly string[]> {
  const lines = (await text(join(system.proc, 'swaps'))).split('\n').slice(1);
  return lines.map((line) => unescaped(line.split(/\s/, 1)[0] ?? '')).filter((name) => names.has(name));
}

function unescaped(word: string): string {
  return word.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

async function entries(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch {
    return [];
  }
}

async function text(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    // No /proc/swaps in a kernel without swap.
    return '';
  }
}
