"""What a browser does is tested where there is one; the project does not install it."""

import shutil

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
collect_ignore = [] if BROWSER else ["test_browser.py"]
