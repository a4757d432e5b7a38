// With --import: TypeScript tests of this project run in a Node that strips types, and `vitest` is vitest.mjs, which needs nothing
// that is built for one platform.
import { existsSync } from 'node:fs'
import { registerHooks } from 'node:module'

const VITEST = new URL('vitest.mjs', import.meta.url).href

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'vitest') return { url: VITEST, shortCircuit: true }
    if (specifier.startsWith('.') && specifier.endsWith('.js')) {
      const source = new URL(specifier.replace(/js$/, 'ts'), context.parentURL)
      if (existsSync(source)) return next(source.href, context)
    }
    return next(specifier, context)
  },
})
