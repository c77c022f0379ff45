/** The load generator: `nbdblast` from PATH, or built from ../shared/bench/nbdblast.c into build/. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Its path. */
export function generator(): string {
  const found = spawnSync('sh', ['-c', 'command -v nbdblast'], { encoding: 'utf8' });
  if (found.status === 0) return found.stdout.trim();
  const source = fileURLToPath(new URL('../../shared/bench/nbdblast.c', import.meta.url));
  if (!existsSync(source)) throw new Error('nbdblast is neither in PATH nor in ../shared/bench');
  const built = fileURLToPath(new URL('../build/nbdblast', import.meta.url));
  mkdirSync(fileURLToPath(new URL('../build', import.meta.url)), { recursive: true });
  execFileSync('cc', ['-O2', '-o', built, source]);
  return built;
}
