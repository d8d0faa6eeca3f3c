"""The SVGT Workbench in a browser: ``streamlit run app.py``."""

from workbench.pages import navigation

navigation.run()
