import { room } from '../seed.js'

const LOG = ['unit/cli/log-file']

export const cli = room(
  'cli',
  ['unit/cli/answer-of', 'unit/cli/parts'],
  [
    [
      'cli/log.ts',
      'if (this.#failing) this.#missing += linesIn(text)',
      'if (this.#failing) this.#missing += 1',
      ...LOG,
    ],
    [
      'cli/log.ts',
      'this.#timer ??= setTimeout(() => this.#retry(), isFull ? READER_RETRY_MS : WRITE_RETRY_MS).unref()',
      '',
      ...LOG,
    ],
    [
      'cli/log.ts',
      'if (this.#failing || isFull) return\n    this.#failing = true',
      'this.#failing = true',
      ...LOG,
    ],
    ['cli/log.ts', 'before.stream.end()', '', ...LOG],
    ['cli/log.ts', 'this.#endsAt = performance.now() + END_MS', '', ...LOG, 'e2e/logs'],
    [
      'cli/exit-code-of.ts',
      "return code === 'ERR_FDB_SPEC' && 'path' in details",
      'return false',
      'unit/cli/parts',
      'e2e/cli-usage',
    ],
    [
      'cli/exit-code-of.ts',
      'USAGE.has(error.code) && !isRemoteError(error)',
      'USAGE.has(error.code)',
      'unit/cli/parts',
      'e2e/cli-usage',
    ],
    [
      'base/duration.ts',
      'ms >= least && ms <= LONGEST_MS',
      'ms >= 0 && ms <= LONGEST_MS',
      'e2e/cli-text',
      'e2e/cli-usage',
    ],
    [
      'cli/output.ts',
      'Math.floor(whole / 3600) % 24',
      'Math.floor(whole / 3600)',
      'unit/cli/parts',
      'e2e/cli-text',
    ],
    ['cli/options.ts', 'count >= 1 && count <= MOST_WORKERS', 'count >= 1', 'unit/cli/parts', 'e2e/workers'],
    ['cli/status-answer.ts', 'return service?.pid ?', 'return service ?'],
    [
      'cli/status-answer.ts',
      "if (name === '' && services.length === 1) return services[0]",
      'if (services.length === 1) return services[0]',
    ],
    [
      'cli/rollback.ts',
      'pid !== leaving.pid || generation !== leaving.generation',
      'pid !== leaving.pid',
      'e2e/cli-service',
      'unit/cli/parts',
    ],
    [
      'cli/stop.ts',
      'until - performance.now()',
      '1000 * (until - performance.now())',
      'e2e/cli-service',
      'unit/wire/deadlines',
    ],
  ],
)
