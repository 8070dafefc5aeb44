// In the browser a copy of the package, served under this name (src/http/page.ts).
import uPlot from 'uplot/dist/uPlot.js';

export default uPlot;
