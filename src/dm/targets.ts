/**
 * The target types that tables may use: the one list of them. A new target is a folder and a line here.
 */
import { error } from './error/error.ts';
import { linear } from './linear/linear.ts';
import { mirror } from './mirror/mirror.ts';
import { snapshotMerge } from './snapshot/merge-target.ts';
import { snapshotOrigin } from './snapshot/origin-target.ts';
import { snapshot } from './snapshot/snapshot-target.ts';
import { striped } from './striped/striped.ts';
import { targetRegistry, type TargetRegistry } from './target.ts';
import { zero } from './zero/zero.ts';

export const targets: TargetRegistry = targetRegistry([
  linear,
  striped,
  mirror,
  snapshotOrigin,
  snapshot,
  snapshotMerge,
  error,
  zero,
]);
