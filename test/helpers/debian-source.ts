/**
 * Foreign programs that judge us, from Debian's source packages, and from binary ones that are not to be installed.
 *
 * Invariants
 *  - They are fetched when they are needed, kept in a cache outside the checkout, and only built and run: nothing of them is here.
 *  - The machine's package sources are not touched: apt is given a list of its own.
 *  - A directory in the cache is whole: it gets its name when everything in it is done. Whoever is slower throws its own away.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export interface SourcePackage {
  /** What `apt-get source` is asked for: `name` or `name=version`. */
  readonly name: string;
  /** The release that has it; the machine's own package sources without it. */
  readonly suite?: string;
  /** What to say when it can't be had. */
  readonly otherwise: string;
}

/**
 * The directory `name` of the tests' cache. Where it doesn't exist, the package's upstream archive is unpacked, `build` makes of it what
 * is needed, and the whole becomes that directory.
 */
export function cachedSource(
  name: string,
  source: SourcePackage,
  build: (tree: string) => Promise<void> = async () => {},
): Promise<string> {
  return cached(name, async (work) => {
    const tree = await fetchSource(work, source);
    await build(tree);
    return tree;
  });
}

/** The directory `name` of the tests' cache with the files of a binary package of `suite`, which needs no others than are installed. */
export function cachedPackage(name: string, suite: string, debianPackage: string): Promise<string> {
  return cached(name, async (work) => {
    const options = await aptOptions(work, sourcesOf(suite, 'deb'));
    await execute('apt-get', [...options, '-qq', 'update'], { cwd: work });
    await execute('apt-get', [...options, '-qq', 'download', debianPackage], { cwd: work });
    const archive = (await readdir(work)).find((file) => file.endsWith('.deb'));
    if (archive === undefined) throw new Error(`${work}: apt-get download ${debianPackage} brought no package`);
    await execute('dpkg', ['-x', join(work, archive), join(work, 'tree')]);
    return join(work, 'tree');
  });
}

async function cached(name: string, make: (work: string) => Promise<string>): Promise<string> {
  const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'orion-lvm-test');
  const tree = join(cache, name);
  if (existsSync(tree)) return tree;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, 'fetch-'));
  try {
    await rename(await make(work), tree);
  } catch (error) {
    // Somebody else was faster.
    if (!existsSync(tree)) throw error;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return tree;
}

/** Fetches the upstream archive of Debian's source package into `work` and unpacks it. */
async function fetchSource(work: string, { name, suite, otherwise }: SourcePackage): Promise<string> {
  const options = await aptOptions(work, suite === undefined ? await ownSources() : sourcesOf(suite));
  try {
    await execute('apt-get', [...options, '-qq', 'update'], { cwd: work });
    await execute('apt-get', [...options, '-qq', 'source', '--download-only', name], { cwd: work });
  } catch (error) {
    throw new Error(`Debian's source package ${name} can't be fetched; ${otherwise}`, { cause: error });
  }
  const archive = (await readdir(work)).find((file) => /\.orig\.tar\.[a-z0-9]+$/.test(file));
  if (archive === undefined) throw new Error(`${work}: apt-get source ${name} brought no .orig.tar`);
  await mkdir(join(work, 'tree'));
  await execute('tar', ['-xf', join(work, archive), '-C', join(work, 'tree'), '--strip-components=1']);
  return join(work, 'tree');
}

/** Options that make apt use these sources only, and keep what it learns in `work`. */
async function aptOptions(work: string, sources: string): Promise<string[]> {
  await mkdir(join(work, 'lists/partial'), { recursive: true });
  await writeFile(join(work, 'debian.sources'), sources);
  return [
    `Dir::Etc::sourcelist=${join(work, 'debian.sources')}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${join(work, 'lists')}`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
}

/** The machine's own package sources, for source packages. */
async function ownSources(): Promise<string> {
  const parts = '/etc/apt/sources.list.d';
  const stanzas: string[] = [];
  for (const name of existsSync(parts) ? await readdir(parts) : []) {
    if (!name.endsWith('.sources')) continue;
    const text = await readFile(join(parts, name), 'utf8');
    if (text.includes('debian.org')) stanzas.push(text.replaceAll(/^Types:.*$/gm, 'Types: deb-src'));
  }
  // The machine has the older form, or none: Debian 12 as everybody has it.
  return stanzas.length > 0 ? stanzas.join('\n\n') : sourcesOf('bookworm');
}

function sourcesOf(suite: string, types: 'deb' | 'deb-src' = 'deb-src'): string {
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
  return `Types: ${types}\nURIs: http://deb.debian.org/debian\nSuites: ${suite}\nComponents: main\nSigned-By: ${keyring}\n`;
}
