/**
 * LVM2's own shell tests with our bin/ as the commands under test: where their source comes from, how the harness beside the
 * checkout (../shared/lvm2-suite) is started, and what its results mean.
 *
 * Invariants
 *  - LVM2's source is fetched when it is needed, kept in a cache outside the checkout, and only run: nothing of it is here.
 *  - The machine's package sources are not touched: apt is given a list of its own.
 *  - A test that fails without standing on the list of expected failures is a failure, and so is one that stands there and
 *    passes: the list stays true.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CHECKOUT, SHARED } from '../helpers/shared.ts';

const HARNESS = join(SHARED, 'lvm2-suite');
const VERSION = '2.03.16';
const PACKAGE = `lvm2=${VERSION}-2`;

const execute = promisify(execFile);

/** The directory of LVM2's source: $LVM2_SOURCE, or the cache, filled by `apt-get source` where it is empty. */
export async function lvm2Source(): Promise<string> {
  const given = process.env['LVM2_SOURCE'] ?? '';
  if (given !== '') return given;
  const cache = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'orion-lvm-test');
  const tree = join(cache, `lvm2-${VERSION}`);
  if (existsSync(join(tree, 'test/shell'))) return tree;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, 'fetch-'));
  try {
    await rename(await fetchSource(work), tree);
  } catch (error) {
    // Somebody else was faster.
    if (!existsSync(join(tree, 'test/shell'))) throw error;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return tree;
}

/** Fetches the upstream archive of Debian's source package into `work` and unpacks it. */
async function fetchSource(work: string): Promise<string> {
  await mkdir(join(work, 'lists/partial'), { recursive: true });
  await writeFile(join(work, 'debian.sources'), await sourcePackages());
  const options = [
    `Dir::Etc::sourcelist=${join(work, 'debian.sources')}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${join(work, 'lists')}`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  try {
    await execute('apt-get', [...options, '-qq', 'update'], { cwd: work });
    await execute('apt-get', [...options, '-qq', 'source', '--download-only', PACKAGE], { cwd: work });
  } catch (error) {
    throw new Error(
      `LVM2's source can't be fetched (${PACKAGE} of Debian); unpack lvm2 ${VERSION} and set LVM2_SOURCE to its directory`,
      { cause: error },
    );
  }
  const archive = (await readdir(work)).find((name) => name.includes('.orig.tar'));
  if (archive === undefined) throw new Error(`${work}: apt-get source brought no .orig.tar`);
  await mkdir(join(work, 'tree'));
  await execute('tar', ['-xf', join(work, archive), '-C', join(work, 'tree'), '--strip-components=1']);
  return join(work, 'tree');
}

/** The machine's own package sources, for source packages. */
async function sourcePackages(): Promise<string> {
  const parts = '/etc/apt/sources.list.d';
  const stanzas: string[] = [];
  for (const name of existsSync(parts) ? await readdir(parts) : []) {
    if (!name.endsWith('.sources')) continue;
    const text = await readFile(join(parts, name), 'utf8');
    if (text.includes('debian.org')) stanzas.push(text.replaceAll(/^Types:.*$/gm, 'Types: deb-src'));
  }
  if (stanzas.length > 0) return stanzas.join('\n\n');
  // The machine has the older form, or none: Debian 12 as everybody has it.
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
  return `Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\nSigned-By: ${keyring}\n`;
}

export type Outcome = 'PASS' | 'FAIL' | 'TIMEOUT' | 'SKIP';

export interface Result {
  readonly test: string;
  readonly outcome: Outcome;
  readonly seconds: number;
  /** The line that failed. */
  readonly detail: string;
}

export interface SuiteOptions {
  readonly tests: readonly string[];
  /** Tests that run at the same time. */
  readonly jobs: number;
  readonly timeoutSeconds: number;
  /** Where full traces stay; absent: nowhere. */
  readonly logs?: string;
  /** Shows results as they come. */
  readonly show: boolean;
  /** More arguments of the harness. */
  readonly extra?: readonly string[];
}

/** The tests of one of the harness's lists. */
export async function listedTests(name: string): Promise<readonly string[]> {
  const text = await readFile(join(HARNESS, `${name}.txt`), 'utf8');
  return text.split('\n').flatMap((line) => (/^[^#\s]/.test(line) ? (line.split(/\s/, 1)[0] ?? []) : []));
}

/** Runs tests and gives their results by name: first those that need no daemon, then those that ask what is active. */
export async function runSuite(options: SuiteOptions): Promise<ReadonlyMap<string, Result>> {
  const served = new Set(await testsWithDaemon());
  const groups = [
    { withDaemon: false, tests: options.tests.filter((test) => !served.has(test)) },
    { withDaemon: true, tests: options.tests.filter((test) => served.has(test)) },
  ];
  const results = new Map<string, Result>();
  for (const { withDaemon, tests } of groups) {
    if (tests.length === 0) continue;
    for (const [test, result] of await runTests({ ...options, tests }, withDaemon)) results.set(test, result);
  }
  return results;
}

async function runTests(options: SuiteOptions, withDaemon: boolean): Promise<ReadonlyMap<string, Result>> {
  const source = await lvm2Source();
  const work = await mkdtemp(join(tmpdir(), 'orion-lvm-suite-'));
  try {
    const commands = await makeCommands(work, withDaemon);
    const table = join(work, 'results.tsv');
    const where = ['--cmds', commands, '--src', source, '--tsv', table, '--keep', options.logs ?? join(work, 'logs')];
    const how = ['-j', String(options.jobs), '--timeout', String(options.timeoutSeconds)];
    const args = [...where, ...how, ...(options.extra ?? []), ...options.tests];
    const child = spawn(join(HARNESS, 'run'), args, {
      stdio: ['ignore', options.show ? 'inherit' : 'ignore', 'inherit'],
    });
    await once(child, 'exit');
    return parseResults(await readFile(table, 'utf8'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** One executable per command of LVM2, and `lvm` itself, each of them ours; with a daemon, they see to it that one is there. */
async function makeCommands(work: string, withDaemon: boolean): Promise<string> {
  const directory = join(work, 'commands');
  await mkdir(directory);
  const launcher = join(CHECKOUT, 'bin/orion-lvm');
  const before = withDaemon ? `. '${join(import.meta.dirname, 'with-daemon.sh')}' '${CHECKOUT}/bin/orion-lvmd'\n` : '';
  const make = async (name: string, command: string): Promise<void> => {
    await writeFile(
      join(directory, name),
      `#!/bin/${withDaemon ? 'bash' : 'sh'}\n${before}exec '${launcher}' ${command}"$@"\n`,
    );
    await chmod(join(directory, name), 0o755);
  };
  await make('lvm', '');
  for (const name of await harnessCommands()) await make(name, `${name} `);
  return directory;
}

/** The names that the harness puts on the PATH. */
async function harnessCommands(): Promise<readonly string[]> {
  const script = await readFile(join(HARNESS, 'run'), 'utf8');
  return /^names="([^"]+)"/m.exec(script)?.[1]?.split(/\s+/) ?? [];
}

function parseResults(table: string): ReadonlyMap<string, Result> {
  const results = new Map<string, Result>();
  for (const line of table.split('\n')) {
    const [test, outcome, seconds, detail] = line.split('\t');
    if (test === undefined || !isOutcome(outcome)) continue;
    results.set(test, { test, outcome, seconds: Number(seconds), detail: detail ?? '' });
  }
  return results;
}

function isOutcome(text: string | undefined): text is Outcome {
  return text === 'PASS' || text === 'FAIL' || text === 'TIMEOUT' || text === 'SKIP';
}

/** Tests that run with an orion-lvmd of their own. */
async function testsWithDaemon(): Promise<readonly string[]> {
  const text = await readFile(join(import.meta.dirname, 'with-daemon.txt'), 'utf8');
  return text.split('\n').filter((line) => /^[^#\s]/.test(line));
}

/** Tests that are known to fail, each with the reason. */
export async function expectedFailures(): Promise<ReadonlyMap<string, string>> {
  const text = await readFile(join(import.meta.dirname, 'expected-failures.txt'), 'utf8');
  const pairs = text.split('\n').flatMap((line): [string, string][] => {
    const match = /^(\S+)\s+(.+)$/.exec(line);
    return match === null || line.startsWith('#') ? [] : [[match[1] ?? '', match[2] ?? '']];
  });
  return new Map(pairs);
}

/** What is not as expected, a line each. */
export function surprises(
  tests: readonly string[],
  results: ReadonlyMap<string, Result>,
  expected: ReadonlyMap<string, string>,
): readonly string[] {
  return tests.flatMap((test) => {
    const result = results.get(test);
    if (result === undefined) return [`${test}: did not run`];
    const passed = result.outcome === 'PASS' || result.outcome === 'SKIP';
    if (passed && result.outcome === 'PASS' && expected.has(test))
      return [`${test}: passes, but stands among the expected failures`];
    if (!passed && !expected.has(test)) return [`${test}: ${result.outcome} ${result.detail}`];
    return [];
  });
}
