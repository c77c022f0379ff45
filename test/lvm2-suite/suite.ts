/**
 * LVM2's own shell tests with our bin/ as the commands under test: where their source comes from, how the harness beside the
 * checkout (../shared/lvm2-suite) is started, and what its results mean.
 *
 * Invariants
 *  - LVM2's source is only run: nothing of it is here (../helpers/debian-source.ts).
 *  - A test that fails without standing on the list of expected failures is a failure, and so is one that stands there and
 *    passes: the list stays true.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cachedSource } from '../helpers/debian-source.ts';
import { CHECKOUT, SHARED } from '../helpers/shared.ts';

const HARNESS = join(SHARED, 'lvm2-suite');
const VERSION = '2.03.16';

/** The directory of LVM2's source: $LVM2_SOURCE, or the cache, filled by `apt-get source` where it is empty. */
export async function lvm2Source(): Promise<string> {
  const given = process.env['LVM2_SOURCE'] ?? '';
  if (given !== '') return given;
  return cachedSource(`lvm2-${VERSION}`, {
    name: `lvm2=${VERSION}-2`,
    otherwise: `unpack lvm2 ${VERSION} and set LVM2_SOURCE to its directory`,
  });
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
