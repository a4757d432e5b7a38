/** `npm run situation-docs`: generates docs/situations.md from the list. */
import { writeFileSync } from 'node:fs'
import { situationsPage } from './page.js'

writeFileSync(new URL('../../docs/situations.md', import.meta.url), situationsPage())
