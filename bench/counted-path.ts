/**
 * The least time that a request takes through our part of the data path, in nanoseconds, as one number on stdout: reads of 4 KiB come
 * in turns of so many over a device that does nothing. For `bench/counters.ts`, which runs it with counting and without.
 *
 *     node bench/counted-path.ts REQUESTS_PER_TURN
 */
import { PLAIN } from '../src/nbd/features.ts';
import { wholePath } from './path-load.ts';

const ROUNDS = 60;
const REQUESTS = 32_000;

const perTurn = Number(process.argv[2]);
const turn = wholePath(0, 4096, PLAIN, perTurn);
let least = Infinity;
for (let round = 0; round < ROUNDS; round++) {
  const start = performance.now();
  for (let done = 0; done < REQUESTS; done += perTurn) turn();
  least = Math.min(least, ((performance.now() - start) * 1e6) / REQUESTS);
}
process.stdout.write(`${least}\n`);
