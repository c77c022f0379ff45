/** The processes in which this process runs commands for somebody, as the daemon does. */
import { readFileSync } from 'node:fs';

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // It has ended meanwhile.
    return '';
  }
}

/** Process ids of those that have not ended. */
export function hostedProcesses(): readonly number[] {
  const { pid } = process;
  const children = textOf(`/proc/${pid}/task/${pid}/children`).trim().split(' ').filter(Boolean).map(Number);
  return children.filter((child) => {
    const state = /^State:\s+(\S)/m.exec(textOf(`/proc/${child}/status`))?.[1];
    return state !== undefined && state !== 'Z' && textOf(`/proc/${child}/cmdline`).includes('hosted');
  });
}
