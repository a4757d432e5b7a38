/** `npm run order-docs`: generates docs/orders.md from the tables. */
import { writeFileSync } from 'node:fs'
import { ordersPage } from './page.js'

writeFileSync(new URL('../../docs/orders.md', import.meta.url), ordersPage())
