/**
 * orion-lvmd: argv → settings → daemon. Exit codes are LVM2's: 0, 3 for a usage or configuration mistake, 5 for a failure.
 *
 * Invariant: mistakes of the start are said in plain words on stderr, whatever the log's format.
 */
import { runDaemon } from './run.ts';

process.exitCode = await runDaemon(process.argv.slice(2));
