/**
 * Runs LVM2's own shell tests against our commands (README here) and compares with what is expected.
 *
 *     node test/lvm2-suite/run.ts [--open] [--jobs N] [--timeout SECONDS] [--logs DIRECTORY] [TEST ...]
 *
 * Without a TEST: those of list-nodm.txt, and with --open those of list-open.txt too. The exit code is 0 if every test did as
 * expected.
 */
import { parseArgs } from 'node:util';
import { expectedFailures, listedTests, runSuite, surprises } from './suite.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    open: { type: 'boolean', default: false },
    jobs: { type: 'string', default: '2' },
    timeout: { type: 'string', default: '600' },
    logs: { type: 'string' },
  },
});

const listed = [...(await listedTests('list-nodm')), ...(values.open ? await listedTests('list-open') : [])];
const tests = positionals.length > 0 ? positionals : [...new Set(listed)];
const results = await runSuite({
  tests,
  jobs: Number(values.jobs),
  timeoutSeconds: Number(values.timeout),
  show: true,
  ...(values.logs === undefined ? {} : { logs: values.logs }),
});
const expected = await expectedFailures();
const unexpected = surprises(tests, results, expected);
const known = tests.filter((test) => expected.has(test) && results.get(test)?.outcome !== 'PASS');
for (const test of known) process.stdout.write(`expected failure: ${test}: ${expected.get(test)}\n`);
for (const line of unexpected) process.stdout.write(`UNEXPECTED ${line}\n`);
process.exitCode = unexpected.length === 0 ? 0 : 1;
