import type * as stages from '../base/server-stage.js'
import { loadCached, SETTLED_MS } from './load-cached.js'

/** library.cjs also exports each entry of the package; all are evaluated when they are read. */
interface Library {
  readonly stages: typeof stages
}

const { exports, save: saveAt } = loadCached<Library>('library.cjs', 'library', () =>
  require('./library.cjs'),
)

exports.stages.onServerStage((stage, withUsualFlags) => {
  const save = () => withUsualFlags(() => saveAt(stage))
  // A process that was replaced may end now.
  if (stage === 'left') setImmediate(save)
  else setTimeout(save, SETTLED_MS).unref()
})

export const library: object = exports
